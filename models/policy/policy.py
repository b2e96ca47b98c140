"""The learner's policy: a vision-language model from tree rows to log-probs and entropies.

Everything from pixels to log-probs is one module's forward, as ZeRO-3 needs it. The family
(`models.families`) holds the differences between models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from core.batch import GroupBatch, ImageLayout
from models.families import family_of
from models.policy import lora, tree_attention, window_attention
from models.policy.logprob_head import LogprobHead
from models.progress import show_progress

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PolicyOutput(NamedTuple):
    """Results of one forward over a row. The last four are set by a policy with a mask head.

    A tuple instead of a dataclass: ZeRO-3 finds the tensors of an output in tuples and dicts only.

    Attributes:
        logprob_N: log-probs of the trained tokens; calibrated by sampled masks.
        entropy_N: entropies of their distributions.
        hidden_SD: last hidden states at the positions `read_S`.
        auxiliary: the row's share of the batch's mask loss.
        text_logprob_N: log-probs of the trained tokens before calibration.
        logits_Mhw: logits of the drawn masks.
        token_MC: language tokens of the masks.
    """

    logprob_N: Tensor
    entropy_N: Tensor
    hidden_SD: Tensor | None = None
    auxiliary: Tensor | None = None
    text_logprob_N: Tensor | None = None
    logits_Mhw: Tensor | None = None
    token_MC: Tensor | None = None


class Policy(nn.Module):
    """A policy of any supported family, on one device."""

    banned_V: Tensor

    def __init__(
        self,
        folder: str | Path,
        *,
        allowed_ids: Sequence[int],
        dtype: str = "float32",
        attention: str = "auto",
        device: torch.device | str = "cpu",
        freeze_vision: bool = False,
        gradient_checkpointing: bool = False,
        chunk: int = 0,
        adapter: lora.Lora | None = None,
    ) -> None:
        """Load the policy.

        Args:
            folder: Hugging Face folder.
            allowed_ids: the ids that the engine samples; all others get probability 0, as there.
            dtype: a key of `DTYPES`.
            attention: auto, split or flex (`models.policy.tree_attention`).
            device: cpu or cuda.
            freeze_vision: do not train the vision tower.
            gradient_checkpointing: keep no activations of decoder layers; compute them again.
            chunk: tokens in a chunk of logits; 0 derives it from the vocabulary.
            adapter: train these low-rank adapters of the language model, and freeze all else.

        Raises:
            ValueError: an unknown dtype or attention, or a folder of an unsupported model.
        """
        super().__init__()
        self.family = family_of(folder)
        self.attention = tree_attention.choose(attention, device)
        self.chunk = chunk

        vlm = load_vlm(folder, dtype)
        window_attention.attend(vlm, self.attention)
        if gradient_checkpointing:
            vlm.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        if freeze_vision:
            vlm.get_submodule(self.family.vision_tower).requires_grad_(False)
        if adapter is not None:
            lora.add(vlm, adapter, self.family)
        show_progress(vlm)
        self.vlm = vlm.to(device).train()

        vocabulary = vlm.config.get_text_config().vocab_size
        banned_V = torch.ones(vocabulary, dtype=torch.bool, device=device)
        banned_V[list(allowed_ids)] = False
        self.register_buffer("banned_V", banned_V, persistent=False)

    @property
    def layout(self) -> ImageLayout:
        """How this policy's images are written into tokens."""
        return self.family.layout

    def forward(
        self,
        row: GroupBatch,
        pixels: Tensor,
        grid_U3: Tensor,
        temperature: float = 1.0,
        read_S: np.ndarray | None = None,
    ) -> PolicyOutput:
        """Return log-probs and entropies of the row's trained tokens.

        Args:
            row: the tree row.
            pixels: patches of the row's unique images (`models.policy.pixels`).
            grid_U3: their grid.
            temperature: temperature of the sampling.
            read_S: positions of the row; return their hidden states as well.

        Raises:
            ValueError: the row trains a token outside `allowed_ids`.
        """
        device = self.banned_V.device
        target_N = torch.as_tensor(row.target_N, device=device)
        self._check_allowed(target_N)

        ids_T, positions_3T, attention = self._attention_inputs(row)
        images = self._image_features(row, pixels.to(device), grid_U3.to(device))
        outputs = self.vlm.model(
            input_ids=ids_T[None],
            position_ids=positions_3T[:, None],
            mm_encoder_outputs=images,
            use_cache=False,
            **attention,
        )
        hidden_TD = outputs.last_hidden_state[0]

        source_N = torch.as_tensor(row.source_N, device=device)
        logprob_N, entropy_N = self.vlm.lm_head(
            hidden_TD[source_N],
            target_N,
            self.banned_V,
            temperature,
            self.chunk,
        )
        hidden_SD = None
        if read_S is not None:
            hidden_SD = hidden_TD[torch.as_tensor(read_S, device=device)]
        return PolicyOutput(logprob_N, entropy_N, hidden_SD)

    def _check_allowed(self, target_N: Tensor) -> None:
        banned_N = self.banned_V[target_N]
        if banned_N.any():
            bad = sorted(set(target_N[banned_N].tolist()))
            raise ValueError(
                f"trained tokens {bad} are not in allowed_ids: engine and learner ban different ids"
            )

    def _attention_inputs(self, row: GroupBatch) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return ids_T, positions_3T and the attention's keywords of the model call.

        For flex attention the row is padded to whole blocks.
        """
        device = self.banned_V.device
        padding = 0
        if self.attention == tree_attention.FLEX:
            padding = -len(row.ids_T) % tree_attention.FLEX_BLOCK
        ids = np.pad(row.ids_T, (0, padding))
        positions = np.pad(row.positions_3T, ((0, 0), (0, padding)))
        ids_T = torch.as_tensor(ids, device=device)
        positions_3T = torch.as_tensor(positions, device=device)

        if self.attention == tree_attention.SPLIT:
            return ids_T, positions_3T, {"attention_mask": None, "tree": row.segments}

        group = np.pad(row.group_T, (0, padding), constant_values=-1)
        branch = np.pad(row.branch_T, (0, padding))
        mask = tree_attention.block_mask(
            torch.as_tensor(group, device=device), torch.as_tensor(branch, device=device)
        )
        return ids_T, positions_3T, {"attention_mask": mask}

    def _image_features(
        self,
        row: GroupBatch,
        pixels: Tensor,
        grid_U3: Tensor,
    ) -> dict[str, Any] | None:
        """Return vision features; the tower sees each unique image once."""
        if not len(row.image_index):
            return None
        features = self.vlm.model.get_image_features(pixels, grid_U3, return_dict=True)
        return {"image": self.family.repeat_images(features, row.image_index.tolist())}


def load_vlm(folder: str | Path, dtype: str) -> Any:
    """Return transformers' model of a folder, with a `LogprobHead` for its head.

    Raises:
        ValueError: an unknown dtype, or another kind of head.
    """
    if dtype not in DTYPES:
        raise ValueError(f"policy.dtype={dtype!r}: one of {', '.join(DTYPES)}")
    vlm = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPES[dtype])
    is_linear = type(vlm.lm_head) is nn.Linear
    if not is_linear or vlm.lm_head.bias is not None:
        raise ValueError(
            f"policy.path={str(folder)!r}: its lm_head is not a plain linear layer; "
            "use a Qwen-VL model"
        )
    vlm.lm_head.__class__ = LogprobHead
    return vlm
