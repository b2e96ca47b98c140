"""Qwen3-VL's forward over whole batches: its differences from Qwen2.5-VL.

Equal to Hugging Face's within rounding (tested).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from tiny.school.batched import Batched, attend, rotate
from tiny.school.sizes import QWEN3, sizes_of


def batched_policy(hf: Any) -> Batched:
    """Return the batched forward of a policy of either family."""
    if sizes_of(hf.config) is QWEN3:
        return BatchedQwen3(hf)
    return Batched(hf)


class BatchedQwen3(Batched):
    """Wraps (and shares) a `Qwen3VLForConditionalGeneration`.

    An image token carries the merger's features and, after them, those of each deepstack level.
    `read` adds the latter after the decoder's first layers.
    """

    def axes(self, sections: list[int]) -> list[int]:
        # Interleaved: time, height, width, time, ...
        axes = [0] * (self.head_size // 2)
        for axis in (1, 2):
            axes[axis : sections[axis] * 3 : 3] = [axis] * sections[axis]
        return axes

    def queries(self, attention: Any, h: torch.Tensor) -> torch.Tensor:
        return self._head_norm(attention.q_norm, super().queries(attention, h))

    def keys(self, attention: Any, h: torch.Tensor) -> torch.Tensor:
        return self._head_norm(attention.k_norm, super().keys(attention, h))

    def _head_norm(self, norm: Any, y: torch.Tensor) -> torch.Tensor:
        heads = y.unflatten(-1, (-1, self.head_size))
        normed = F.rms_norm(heads, (self.head_size,), norm.weight, norm.variance_epsilon)
        return normed.flatten(-2)

    def see(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """Return the tokens of square uint8 RGB images; sides a multiple of 32.

        Returns:
            (N, tokens, D * (1 + deepstack levels)).
        """
        n = len(images_NHWC)
        grid = images_NHWC.shape[1] // 16
        x = self.patches(images_NHWC, 16) + self._patch_positions(grid)
        cos, sin = self.vision_angles(grid, x.device)
        levels = []
        for index, block in enumerate(self.visual.blocks):
            h = block.attn.qkv(_layer_norm(x, block.norm1))
            heads = h.view(n, grid * grid, 3, self.num_vision_heads, -1)
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            o = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, None)
            o = o.transpose(1, 2).reshape(n, grid * grid, -1)
            x = x + block.attn.proj(o)
            h = block.mlp.linear_fc1(_layer_norm(x, block.norm2))
            x = x + block.mlp.linear_fc2(F.gelu(h, approximate="tanh"))
            if index in self.visual.deepstack_visual_indexes:
                level = self.visual.deepstack_visual_indexes.index(index)
                levels.append(_merge(self.visual.deepstack_merger_list[level], x))
        return torch.cat([_merge(self.visual.merger, x), *levels], -1)

    def _patch_positions(self, grid: int) -> torch.Tensor:
        """Return the learned position of each patch (patches, D), between the table's own."""
        table = self.visual.pos_embed.weight
        taps_P4, weights_P4 = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, grid, grid]], device=table.device),
            num_grid_per_side=self.visual.num_grid_per_side,
            align_corners=True,
            spatial_merge_size=2,
        )
        return (table[taps_P4] * weights_P4[..., None]).sum(1)


def _layer_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _merge(merger: Any, x: torch.Tensor) -> torch.Tensor:
    """(N, patches, D) in blocks of 2 x 2 -> (N, patches / 4, D of the decoder)."""
    if merger.use_postshuffle_norm:
        h = _layer_norm(_join_blocks(merger, x), merger.norm)
    else:
        h = _join_blocks(merger, _layer_norm(x, merger.norm))
    return merger.linear_fc2(F.gelu(merger.linear_fc1(h)))


def _join_blocks(merger: Any, x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), -1, merger.hidden_size)
