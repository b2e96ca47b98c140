"""Qwen3-VL's forward over whole batches: what differs from Qwen2.5-VL's. Equal to Hugging Face's within rounding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from tiny.school.batched import Batched, _attend, _rotate
from tiny.school.sizes import QWEN3, family_of


class BatchedQwen3(Batched):
    """Wraps (and shares) a `Qwen3VLForConditionalGeneration`.

    An image token carries the merger's features and, behind them, those of each deepstack level, which `read` adds
    after the decoder's first layers.
    """

    def _axes(self, sections: list[int]) -> list[int]:
        axes = [0] * (self.head_size // 2)  # interleaved: time, height, width, time, ...
        for axis in (1, 2):
            axes[axis : sections[axis] * 3 : 3] = [axis] * sections[axis]
        return axes

    def queries(self, attention: Any, h: torch.Tensor) -> torch.Tensor:
        return self._head_norm(attention.q_norm, super().queries(attention, h))

    def keys(self, attention: Any, h: torch.Tensor) -> torch.Tensor:
        return self._head_norm(attention.k_norm, super().keys(attention, h))

    def _head_norm(self, norm: Any, y: torch.Tensor) -> torch.Tensor:
        heads = y.unflatten(-1, (-1, self.head_size))
        return F.rms_norm(heads, (self.head_size,), norm.weight, norm.variance_epsilon).flatten(-2)

    def see(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """Square uint8 RGB images, sides a multiple of 32 -> image tokens (N, tokens, D * (1 + deepstack levels))."""
        n = len(images_NHWC)
        grid = images_NHWC.shape[1] // 16
        x = self._patches(images_NHWC, 16) + self._places(grid)
        cos, sin = self._vision_angles(grid, x.device)
        deep = []
        for index, block in enumerate(self.visual.blocks):
            h = block.attn.qkv(_norm(x, block.norm1))
            q, k, v = h.view(n, grid * grid, 3, self.num_vision_heads, -1).permute(2, 0, 3, 1, 4)
            o = _attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, None)
            x = x + block.attn.proj(o.transpose(1, 2).reshape(n, grid * grid, -1))
            h = block.mlp.linear_fc1(_norm(x, block.norm2))
            x = x + block.mlp.linear_fc2(F.gelu(h, approximate="tanh"))
            if index in self.visual.deepstack_visual_indexes:
                level = self.visual.deepstack_visual_indexes.index(index)
                deep.append(_merge(self.visual.deepstack_merger_list[level], x))
        return torch.cat([_merge(self.visual.merger, x), *deep], -1)

    def _places(self, grid: int) -> torch.Tensor:
        """The learned position of each patch (patches, D), between those of the table's own grid."""
        table = self.visual.pos_embed.weight
        taps_P4, weights_P4 = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, grid, grid]], device=table.device),
            num_grid_per_side=self.visual.num_grid_per_side,
            align_corners=True,
            spatial_merge_size=2,
        )
        return (table[taps_P4] * weights_P4[..., None]).sum(1)


def _norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _merge(merger: Any, x: torch.Tensor) -> torch.Tensor:
    """(N, patches, D) in 2 x 2 blocks -> (N, patches / 4, D of the decoder)."""
    blocks = lambda y: y.reshape(len(y), -1, merger.hidden_size)
    h = (
        _norm(blocks(x), merger.norm)
        if merger.use_postshuffle_norm
        else blocks(_norm(x, merger.norm))
    )
    return merger.linear_fc2(F.gelu(merger.linear_fc1(h)))


def batched(hf: Any) -> Batched:
    """The batched forward of a policy of either family."""
    return BatchedQwen3(hf) if family_of(hf.config) is QWEN3 else Batched(hf)
