"""Attention over prefix-tree rows: a branch sees the prompt and itself only.

Two exact forms of the same attention. `rayvos_split` makes one call for each segment and no L x L
mask, on any device. `rayvos_flex` is flex_attention with a block mask, for GPUs. The vision tower
has an attention of its own (`models.policy.window_attention`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flex_attention_mask, sdpa_mask

from core.batch import Segments

SPLIT = "rayvos_split"
FLEX = "rayvos_flex"
# A flex row is padded to a multiple of this.
FLEX_BLOCK = 128


def split_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: Segments | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within the segments of `tree`; without one, as transformers' SDPA.

    Tensors are (1, heads, T, width).
    """
    if tree is None:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout,
            scaling,
            **kwargs,
        )

    options = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    outputs = []
    for start, stop, branches in tree:
        outputs += _attend_group(query, key, value, slice(start, stop), branches, options)
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _attend_group(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt: slice,
    branches: Iterable[tuple[int, int]],
    options: dict[str, Any],
) -> list[Tensor]:
    """Return the attention of a prompt and of each of its branches."""
    prompt_key = key[:, :, prompt]
    prompt_value = value[:, :, prompt]
    attended = F.scaled_dot_product_attention(
        query[:, :, prompt],
        prompt_key,
        prompt_value,
        is_causal=True,
        **options,
    )
    outputs = [attended]

    for start, stop in branches:
        branch = slice(start, stop)
        attended = F.scaled_dot_product_attention(
            query[:, :, branch],
            torch.cat([prompt_key, key[:, :, branch]], 2),
            torch.cat([prompt_value, value[:, :, branch]], 2),
            attn_mask=_branch_mask(prompt_key.shape[2], stop - start, key.device),
            **options,
        )
        outputs.append(attended)
    return outputs


def _branch_mask(prompt: int, branch: int, device: torch.device) -> Tensor:
    """Return which of the prompt's and the branch's tokens each token of the branch sees."""
    visible = torch.ones((branch, prompt + branch), dtype=torch.bool, device=device)
    # Causal at the lower right: every token of the branch sees the whole prompt.
    return visible.tril_(prompt)


def block_mask(group_T: Tensor, branch_T: Tensor) -> BlockMask:
    """Return the tree as a flex_attention mask.

    Args:
        group_T: group of each token, -1 for padding; T is a multiple of FLEX_BLOCK. Padding sees
            padding.
        branch_T: branch of each token, 0 for the prompt.
    """

    def visible(
        batch: Tensor,
        head: Tensor,
        q: Tensor,
        k: Tensor,
    ) -> Tensor:
        causal = q >= k
        same_group = group_T[q] == group_T[k]
        in_prompt = branch_T[k] == 0
        same_branch = branch_T[q] == branch_T[k]
        return causal & same_group & (in_prompt | same_branch)

    length = len(group_T)
    return create_block_mask(visible, 1, None, length, length, device=str(group_T.device))


def choose(attention: str, device: torch.device | str) -> str:
    """Return the registered name of `policy.attention`.

    Raises:
        ValueError: it is neither auto nor split nor flex.
    """
    if attention == "split":
        return SPLIT
    if attention == "flex":
        return FLEX
    if attention != "auto":
        raise ValueError(f"policy.attention={attention!r}: one of auto, split, flex")
    on_gpu = torch.device(device).type == "cuda"
    return FLEX if on_gpu else SPLIT


AttentionInterface.register(SPLIT, split_attention)
AttentionInterface.register(FLEX, flex_attention_forward)
# Without a mask function of its own, a custom attention drops the padding mask of every other
# transformers call.
AttentionMaskInterface.register(SPLIT, sdpa_mask)
AttentionMaskInterface.register(FLEX, flex_attention_mask)
