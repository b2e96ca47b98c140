"""Qwen2.5-VL's forward over whole batches, on the parameters of the Hugging Face module.

The Hugging Face forward walks over images and packs rows. Images of one size and rows of one
layout need only a few batched matrix products. Equal to it within rounding (tested). Qwen3-VL
is in `tiny.school.batched_qwen3`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

# For each layer its keys and values, (B, heads, T, head size).
Cache = list[tuple[torch.Tensor, torch.Tensor]]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def gated_mlp(mlp: Any, h: torch.Tensor) -> torch.Tensor:
    gate = F.silu(mlp.gate_proj(h))
    return mlp.down_proj(gate * mlp.up_proj(h))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions."""
    half = x.shape[-1] // 2
    first = x[..., :half]
    second = x[..., half:]
    return x * cos + torch.cat([-second, first], -1) * sin


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor | None
) -> torch.Tensor:
    """Return attention outputs. `seen` (queries, keys) is True if a query may look at a key."""
    if q.device.type == "cuda":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    # On a CPU plain products: there the backward of PyTorch's fused kernel takes half of a whole
    # training step.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if seen is not None:
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return scores.softmax(-1).to(v.dtype) @ v


def attend_with_past(
    past: tuple[torch.Tensor, torch.Tensor],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seen: torch.Tensor,
) -> torch.Tensor:
    """Return attention outputs of rows after a past; all rows see the whole past.

    Each row of the past belongs to several neighbouring rows. On a CPU it is not repeated for them.
    """
    b, _, t, size = q.shape
    past_k = past[0].to(k.dtype)
    past_v = past[1].to(k.dtype)
    if q.device.type == "cuda":
        seen = torch.cat([seen.new_ones(t, past_k.shape[2]), seen], 1)
        k = torch.cat([_repeat_rows(past_k, b), k], 2)
        v = torch.cat([_repeat_rows(past_v, b), v], 2)
        return attend(q, k, v, seen)

    rows = b // len(past_k)
    q = q * size**-0.5
    own = q @ k.transpose(-1, -2)
    own = own.masked_fill(~seen, torch.finfo(own.dtype).min)
    to_past = _join_rows(q, rows) @ past_k.transpose(-1, -2)
    scores = torch.cat([to_past, _join_rows(own, rows)], -1)
    share = scores.softmax(-1).to(v.dtype)

    length = past_k.shape[2]
    from_past = _split_rows(share[..., :length] @ past_v, rows)
    return from_past + _split_rows(share[..., length:], rows) @ v


def _join_rows(y: torch.Tensor, rows: int) -> torch.Tensor:
    """(B * rows, h, T, d) -> (B, h, rows * T, d)."""
    return y.unflatten(0, (-1, rows)).transpose(1, 2).flatten(2, 3)


def _split_rows(y: torch.Tensor, rows: int) -> torch.Tensor:
    """(B, h, rows * T, d) -> (B * rows, h, T, d)."""
    return y.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)


def _repeat_rows(past: torch.Tensor, rows: int) -> torch.Tensor:
    """(B, h, T, d) -> (rows, h, T, d), each row of the past for rows / B neighbouring rows."""
    b = past.shape[0]
    if b == rows:
        return past
    repeated = past[:, None].expand(b, rows // b, *past.shape[1:])
    return repeated.flatten(0, 1)


class Batched(torch.nn.Module):
    """Wraps, and shares, a Qwen2.5-VL of Hugging Face with full attention in its tower."""

    def __init__(self, hf: Any) -> None:
        super().__init__()
        self.hf = hf
        text = hf.config.text_config
        vision = hf.config.vision_config
        full_attention = getattr(vision, "fullatt_block_indexes", range(vision.depth))
        assert len(full_attention) == vision.depth, "windowed attention"

        self.visual = hf.model.visual
        self.decoder = hf.model.language_model
        self.image_id = hf.config.image_token_id
        self.num_vision_heads = vision.num_heads
        self.vision_size = vision.hidden_size // vision.num_heads
        self.num_heads = text.num_attention_heads
        self.num_kv = text.num_key_value_heads
        self.width = text.hidden_size
        self.head_size = text.hidden_size // text.num_attention_heads
        self.eps = text.rms_norm_eps

        rope = text.rope_parameters
        steps = torch.arange(0, self.head_size, 2).float() / self.head_size
        axes = torch.tensor(self.axes(rope["mrope_section"]))
        self.register_buffer("inverse_D", rope["rope_theta"] ** -steps, persistent=False)
        self.register_buffer("axis_D", axes, persistent=False)

    def axes(self, sections: list[int]) -> list[int]:
        """Return the axis of each frequency: time, height or width."""
        axes: list[int] = []
        for axis, count in enumerate(sections):
            axes += [axis] * count
        return axes

    def see(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """Return the tokens of square uint8 RGB images, (N, tokens, D); sides a multiple of 28."""
        n, side = images_NHWC.shape[:2]
        grid = side // 14
        x = self.patches(images_NHWC, 14)
        cos, sin = self.vision_angles(grid, x.device)
        for block in self.visual.blocks:
            h = block.attn.qkv(rms_norm(x, block.norm1.weight))
            heads = h.view(n, grid * grid, 3, self.num_vision_heads, -1)
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            o = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, None)
            o = o.transpose(1, 2).reshape(n, grid * grid, -1)
            x = x + block.attn.proj(o)
            h = rms_norm(x, block.norm2.weight)
            x = x + gated_mlp(block.mlp, h)
        x = rms_norm(x, self.visual.merger.ln_q.weight).reshape(n, grid * grid // 4, -1)
        return self.visual.merger.mlp(x)

    def patches(self, images_NHWC: torch.Tensor, size: int) -> torch.Tensor:
        """Return embedded patches (N, patches, D), in blocks of 2 x 2."""
        n, side = images_NHWC.shape[:2]
        half = side // size // 2
        x = images_NHWC.float() / 127.5 - 1
        x = x.view(n, half, 2, size, half, 2, size, 3)
        x = x.permute(0, 1, 4, 2, 5, 7, 3, 6)
        x = x.reshape(n, 4 * half * half, -1)

        embed = self.visual.patch_embed.proj
        # A still image fills both temporal halves of a patch.
        patch = embed.weight.sum(2)
        # The residual stays fp32 under autocast.
        return F.linear(x, patch.reshape(patch.shape[0], -1), embed.bias).float()

    def vision_angles(self, grid: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and sine of the rotary positions of grid x grid patches."""
        half = self.vision_size // 2
        steps = torch.arange(0, half, 2, device=device).float() / half
        at = torch.arange(grid, device=device)
        rows = _in_blocks(at[:, None].expand(grid, grid))
        columns = _in_blocks(at[None].expand(grid, grid))
        frequencies = 10000**-steps
        angles = torch.cat([rows * frequencies, columns * frequencies], -1).repeat(1, 2)
        return angles.cos(), angles.sin()

    def embed(self, ids_BT: torch.Tensor, images_ND: torch.Tensor) -> torch.Tensor:
        """Return token embeddings, with `images_ND` in place of the image tokens, in order.

        A family may add image features after its first layers. Then embeddings are wider than the
        model by these features, 0 for text.
        """
        x = self.decoder.embed_tokens(ids_BT)
        x = F.pad(x, (0, images_ND.shape[-1] - x.shape[-1]))
        is_image = (ids_BT == self.image_id)[..., None]
        return x.masked_scatter(is_image, images_ND.to(x.dtype))

    def read(
        self,
        x_BTD: torch.Tensor,
        positions_BT3: torch.Tensor,
        past: Cache | None = None,
        tap: int = -1,
        seen_BTT: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Cache, torch.Tensor | None]:
        """Run the causal decoder.

        Args:
            past: Seen by every row; it has the rows of `x`, or one for each of several rows.
            tap: Index of a layer; its output is returned, too.
            seen_BTT: True if a token (second to last axis) may look at another; without it a token
                looks at itself and all before it.

        Returns:
            Last hidden states (normed), keys and values of each layer, hidden states after layer
            `tap`.
        """
        b, t = x_BTD.shape[:2]
        cos, sin = self._angles(positions_BT3)
        seen = torch.ones(t, t, dtype=torch.bool, device=x_BTD.device).tril()
        if seen_BTT is not None:
            assert past is None, "a mask of its own and a past do not go together"
            seen = seen_BTT[:, None]

        cache: Cache = []
        tapped = None
        x, *added = x_BTD.split(self.width, -1)
        for index, layer in enumerate(self.decoder.layers):
            attention = layer.self_attn
            h = rms_norm(x, layer.input_layernorm.weight, self.eps)
            q = self._by_head(self.queries(attention, h))
            k = self._by_head(self.keys(attention, h))
            v = self._by_head(attention.v_proj(h))
            q = rotate(q, cos, sin)
            k = rotate(k, cos, sin).repeat_interleave(self.num_heads // self.num_kv, 1)
            v = v.repeat_interleave(self.num_heads // self.num_kv, 1)
            cache.append((k, v))
            if past is None:
                o = attend(q, k, v, seen)
            else:
                o = attend_with_past(past[index], q, k, v, seen)
            x = x + attention.o_proj(o.transpose(1, 2).reshape(b, t, -1))
            h = rms_norm(x, layer.post_attention_layernorm.weight, self.eps)
            x = x + gated_mlp(layer.mlp, h)
            if index < len(added):
                x = x + added[index]
            if index == tap:
                tapped = x
        return rms_norm(x, self.decoder.norm.weight, self.eps), cache, tapped

    def queries(self, attention: Any, h: torch.Tensor) -> torch.Tensor:
        return attention.q_proj(h)

    def keys(self, attention: Any, h: torch.Tensor) -> torch.Tensor:
        return attention.k_proj(h)

    def _by_head(self, y_BTD: torch.Tensor) -> torch.Tensor:
        """(B, T, heads * d) -> (B, heads, T, d)."""
        b, t = y_BTD.shape[:2]
        return y_BTD.view(b, t, -1, self.head_size).transpose(1, 2)

    def _angles(self, positions_BT3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = positions_BT3.float()[..., self.axis_D] * self.inverse_D
        angles = angles.repeat(1, 1, 2)[:, None]
        return angles.cos(), angles.sin()

    def scores(
        self,
        states_ND: torch.Tensor,
        positions_N3: torch.Tensor,
        keys_NTd: torch.Tensor,
        index: int,
        head: int,
    ) -> torch.Tensor:
        """Return the attention logits (N, T) of one head of layer `index`.

        Args:
            states_ND: Hidden states before that layer.
            keys_NTd: Keys of that layer and head, from its cache.
        """
        layer = self.decoder.layers[index]
        h = rms_norm(states_ND, layer.input_layernorm.weight, self.eps)
        q = self.queries(layer.self_attn, h).view(-1, self.num_heads, 1, self.head_size)
        cos, sin = self._angles(positions_N3[:, None])
        q_N1d = rotate(q[:, head], cos[:, 0], sin[:, 0])
        return (keys_NTd * q_N1d).sum(-1) * self.head_size**-0.5

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.hf.lm_head.weight)


def _in_blocks(at_HW: torch.Tensor) -> torch.Tensor:
    """Order a grid by the merger's blocks of 2 x 2; (H * W, 1)."""
    half = len(at_HW) // 2
    blocks = at_HW.reshape(half, 2, half, 2).permute(0, 2, 1, 3)
    return blocks.reshape(-1, 1)
