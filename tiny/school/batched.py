"""Qwen2.5-VL's forward over whole batches, with the parameters of the Hugging Face module (Qwen3-VL's: batched_qwen3).

The Hugging Face forward walks over images and packs rows; with images of one size and rows of one layout all of that
is a few batched matrix products. Equal to it within rounding (tested). Knows no tokens' meaning and no data.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

Cache = list[
    tuple[torch.Tensor, torch.Tensor]
]  # for each layer keys and values, (B, heads, T, head size)


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor | None
) -> torch.Tensor:
    """Attention; `seen` (queries, keys) is True where a query may look.

    On a CPU plain products: PyTorch's fused kernel spends half of a whole training step in its backward there.
    """
    if q.device.type == "cuda":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if seen is not None:
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return scores.softmax(-1).to(v.dtype) @ v


def _attend_behind(
    past: tuple[torch.Tensor, torch.Tensor],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seen: torch.Tensor,
) -> torch.Tensor:
    """Attention of rows that follow a past, which all of them see whole; each row of the past is that of some
    neighbouring rows, and on a CPU not repeated for them."""
    b, _, t, size = q.shape
    past_k, past_v = (p.to(k.dtype) for p in past)
    if q.device.type == "cuda":
        seen = torch.cat([seen.new_ones(t, past_k.shape[2]), seen], 1)
        k, v = (torch.cat([_rows(p, b), y], 2) for p, y in ((past_k, k), (past_v, v)))
        return _attend(q, k, v, seen)
    rows = b // len(past_k)
    together = lambda y: y.unflatten(0, (-1, rows)).transpose(1, 2).flatten(2, 3)
    apart = lambda y: y.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)
    q = q * size**-0.5
    own = q @ k.transpose(-1, -2)
    own = own.masked_fill(~seen, torch.finfo(own.dtype).min)
    scores = torch.cat([together(q) @ past_k.transpose(-1, -2), together(own)], -1)
    share = scores.softmax(-1).to(v.dtype)
    length = past_k.shape[2]
    return apart(share[..., :length] @ past_v) + apart(share[..., length:]) @ v


class Batched(torch.nn.Module):
    """Wraps (and shares) a `Qwen2_5_VLForConditionalGeneration` whose vision blocks all use full attention."""

    def __init__(self, hf: Any) -> None:
        super().__init__()
        self.hf = hf
        text = hf.config.text_config
        vision = hf.config.vision_config
        assert len(getattr(vision, "fullatt_block_indexes", range(vision.depth))) == vision.depth, (
            "windowed attention"
        )
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
        self.register_buffer("inverse_D", rope["rope_theta"] ** -steps, persistent=False)
        self.register_buffer(
            "axis_D", torch.tensor(self._axes(rope["mrope_section"])), persistent=False
        )

    def _axes(self, sections: list[int]) -> list[int]:
        """Which of a position's three numbers turns each frequency."""
        return [i for i, n in enumerate(sections) for _ in range(n)]

    def see(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """Square uint8 RGB images, sides a multiple of 28 -> image tokens (N, tokens, D)."""
        n, side = images_NHWC.shape[:2]
        grid = side // 14
        x = self._patches(images_NHWC, 14)
        cos, sin = self._vision_angles(grid, x.device)
        for block in self.visual.blocks:
            h = block.attn.qkv(_rms(x, block.norm1.weight))
            q, k, v = h.view(n, grid * grid, 3, self.num_vision_heads, -1).permute(2, 0, 3, 1, 4)
            o = _attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, None)
            x = x + block.attn.proj(o.transpose(1, 2).reshape(n, grid * grid, -1))
            h = _rms(x, block.norm2.weight)
            x = x + block.mlp.down_proj(F.silu(block.mlp.gate_proj(h)) * block.mlp.up_proj(h))
        x = _rms(x, self.visual.merger.ln_q.weight).reshape(n, grid * grid // 4, -1)
        return self.visual.merger.mlp(x)

    def _patches(self, images_NHWC: torch.Tensor, size: int) -> torch.Tensor:
        """Embedded patches (N, patches, D), in 2 x 2 blocks."""
        n, side = images_NHWC.shape[:2]
        g = side // size
        x = images_NHWC.float() / 127.5 - 1
        x = (
            x.view(n, g // 2, 2, size, g // 2, 2, size, 3)
            .permute(0, 1, 4, 2, 5, 7, 3, 6)
            .reshape(n, g * g, -1)
        )
        embed = self.visual.patch_embed.proj
        patch = embed.weight.sum(2)  # a still image fills both temporal halves of a patch
        # The residual stays fp32 under autocast.
        return F.linear(x, patch.reshape(patch.shape[0], -1), embed.bias).float()

    def _vision_angles(self, grid: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        steps = torch.arange(0, self.vision_size // 2, 2, device=device).float() / (
            self.vision_size // 2
        )
        at = torch.arange(grid, device=device)
        rows, columns = (  # patches come in 2 x 2 blocks, which the merger joins
            a.reshape(grid // 2, 2, grid // 2, 2).permute(0, 2, 1, 3).reshape(-1, 1)
            for a in (at[:, None].expand(grid, grid), at[None].expand(grid, grid))
        )
        angles = torch.cat([rows * 10000**-steps, columns * 10000**-steps], -1).repeat(1, 2)
        return angles.cos(), angles.sin()

    def embed(self, ids_BT: torch.Tensor, images_ND: torch.Tensor) -> torch.Tensor:
        """Token embeddings, with `images_ND` in place of the image tokens, in order.

        Wider than the model by the features that are added behind its first layers, if the family has such: 0 for text.
        """
        x = self.decoder.embed_tokens(ids_BT)
        x = F.pad(x, (0, images_ND.shape[-1] - x.shape[-1]))
        return x.masked_scatter((ids_BT == self.image_id)[..., None], images_ND.to(x.dtype))

    def read(
        self,
        x_BTD: torch.Tensor,
        positions_BT3: torch.Tensor,
        past: Cache | None = None,
        tap: int = -1,
        seen_BTT: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Cache, torch.Tensor | None]:
        """Causal decoder. `past` is seen by every row; its rows are those of `x`, or one for each of several rows.

        seen_BTT: True where a token (second to last axis) may look; without it, at all before it and itself.

        Returns:
            last hidden states (normed), keys and values of each layer, and the hidden states after layer `tap`.
        """
        b, t = x_BTD.shape[:2]
        cos, sin = self._angles(positions_BT3)
        seen = torch.ones(t, t, dtype=torch.bool, device=x_BTD.device).tril()
        if seen_BTT is not None:
            assert past is None, "a mask of its own and a past do not go together"
            seen = seen_BTT[:, None]
        cache: Cache = []
        tapped = None
        x, *behind = x_BTD.split(self.width, -1)
        for index, layer in enumerate(self.decoder.layers):
            attention = layer.self_attn
            h = _rms(x, layer.input_layernorm.weight, self.eps)
            q, k, v = (
                y.view(b, t, -1, self.head_size).transpose(1, 2)
                for y in (self.queries(attention, h), self.keys(attention, h), attention.v_proj(h))
            )
            q = _rotate(q, cos, sin)
            k = _rotate(k, cos, sin)
            k, v = (y.repeat_interleave(self.num_heads // self.num_kv, 1) for y in (k, v))
            cache.append((k, v))
            o = (
                _attend(q, k, v, seen)
                if past is None
                else _attend_behind(past[index], q, k, v, seen)
            )
            x = x + attention.o_proj(o.transpose(1, 2).reshape(b, t, -1))
            h = _rms(x, layer.post_attention_layernorm.weight, self.eps)
            x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
            x = x + behind[index] if index < len(behind) else x
            tapped = x if index == tap else tapped
        return _rms(x, self.decoder.norm.weight, self.eps), cache, tapped

    def queries(self, attention: Any, h: torch.Tensor) -> torch.Tensor:
        return attention.q_proj(h)

    def keys(self, attention: Any, h: torch.Tensor) -> torch.Tensor:
        return attention.k_proj(h)

    def _angles(self, positions_BT3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = (positions_BT3.float()[..., self.axis_D] * self.inverse_D).repeat(1, 1, 2)[:, None]
        return angles.cos(), angles.sin()

    def scores(
        self,
        states_ND: torch.Tensor,
        positions_N3: torch.Tensor,
        keys_NTd: torch.Tensor,
        index: int,
        head: int,
    ) -> torch.Tensor:
        """How much each of some keys (of layer `index`, from its cache) is attended by states before that layer (N, T),
        as logits."""
        layer = self.decoder.layers[index]
        q = self.queries(layer.self_attn, _rms(states_ND, layer.input_layernorm.weight, self.eps))
        cos, sin = self._angles(positions_N3[:, None])
        q_N1d = _rotate(
            q.view(-1, self.num_heads, 1, self.head_size)[:, head], cos[:, 0], sin[:, 0]
        )
        return (keys_NTd * q_N1d).sum(-1) * self.head_size**-0.5

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.hf.lm_head.weight)


def _rows(past: torch.Tensor, rows: int) -> torch.Tensor:
    """(B, h, T, d) -> (rows, h, T, d), each row of the past for rows / B neighbouring rows."""
    b = past.shape[0]
    return past if b == rows else past[:, None].expand(b, rows // b, *past.shape[1:]).flatten(0, 1)
