"""Attention over prefix-tree rows: a branch sees the prompt and itself only.

Two exact forms of the same attention. `rayvos_split` makes one call for each segment and no L x L
mask, on any device. `rayvos_flex` is flex_attention with a block mask, for GPUs. The vision tower
keeps PyTorch's own attention.
"""

from __future__ import annotations

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

    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for prompt_start, prompt_stop, branches in tree:
        prompt = slice(prompt_start, prompt_stop)
        prompt_key = key[:, :, prompt]
        prompt_value = value[:, :, prompt]
        attended = F.scaled_dot_product_attention(
            query[:, :, prompt],
            prompt_key,
            prompt_value,
            is_causal=True,
            scale=scaling,
            enable_gqa=grouped,
        )
        outputs.append(attended)

        for start, stop in branches:
            branch = slice(start, stop)
            branch_key = torch.cat([prompt_key, key[:, :, branch]], 2)
            branch_value = torch.cat([prompt_value, value[:, :, branch]], 2)
            # Causal at the lower right: every token of the branch sees the whole prompt.
            shape = (stop - start, branch_key.shape[2])
            visible = torch.ones(shape, dtype=torch.bool, device=key.device)
            visible.tril_(prompt_stop - prompt_start)
            attended = F.scaled_dot_product_attention(
                query[:, :, branch],
                branch_key,
                branch_value,
                attn_mask=visible,
                scale=scaling,
                enable_gqa=grouped,
            )
            outputs.append(attended)
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


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
