"""The learner's policy: a Hugging Face vision-language model that turns a row into log-probs and entropies.

Everything from pixels to log-probs is one module's forward, as ZeRO-3 needs it. It works for Qwen2.5-VL and
Qwen3-VL. It knows rows (`core.batch.GroupBatch`); nothing of losses, optimizers or processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from core.batch import GroupBatch, ImageLayout
from models.policy import lora, tree_attention

# Of logits at once; two such blocks are alive at the peak. A bfloat16 head's gradient is rounded once for each chunk.
CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class _LogprobEntropy(torch.autograd.Function):
    """Log-probs of the targets and entropies, without keeping logits: the backward makes them again, by chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        banned_V: Tensor,
        temperature: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        logprobs = []
        entropies = []
        norms = []
        for part in range(0, len(target_N), chunk):
            span = slice(part, part + chunk)
            logits_NV = _logits(hidden_ND[span], weight_VD, banned_V, temperature)
            norm_N = logits_NV.logsumexp(-1)
            logits_NV.sub_(
                norm_N[:, None]
            )  # in place from here on: these blocks are what memory goes to
            logprobs.append(logits_NV.gather(-1, target_N[span, None])[:, 0])
            entropies.append(torch.special.entr(logits_NV.exp_(), out=logits_NV).sum(-1))
            norms.append(norm_N)
        entropy_N = torch.cat(entropies)
        ctx.save_for_backward(hidden_ND, weight_VD, target_N, banned_V, torch.cat(norms), entropy_N)
        ctx.temperature = temperature
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(
        ctx: Any, d_logprob_N: Tensor | None, d_entropy_N: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, target_N, banned_V, norm_N, entropy_N = ctx.saved_tensors
        d_hidden_ND = torch.zeros_like(hidden_ND)
        d_weight_VD = (
            torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        )  # a frozen head has none
        of_logprob_N = torch.zeros_like(norm_N) if d_logprob_N is None else d_logprob_N
        for part in range(0, len(target_N), ctx.chunk):
            span = slice(part, part + ctx.chunk)
            d_NV = (
                _logits(hidden_ND[span], weight_VD, banned_V, ctx.temperature)
                .sub_(norm_N[span, None])
                .exp_()
            )
            of_entropy_N = None if d_entropy_N is None else d_entropy_N[span]
            d_NV = _d_logits(
                d_NV, entropy_N[span], of_entropy_N, of_logprob_N[span], target_N[span]
            )
            d_NV = d_NV.div_(ctx.temperature).to(weight_VD.dtype)
            d_hidden_ND[span] = d_NV @ weight_VD
            if d_weight_VD is not None:
                d_weight_VD.addmm_(d_NV.t(), hidden_ND[span])
        return d_hidden_ND, d_weight_VD, None, None, None, None


def _d_logits(
    p_NV: Tensor,
    entropy_N: Tensor,
    d_entropy_N: Tensor | None,
    d_logprob_N: Tensor,
    target_N: Tensor,
) -> Tensor:
    """The gradient at the logits over temperature, from their softmax `p_NV`, which is overwritten."""
    if d_entropy_N is None:
        d_NV = p_NV.mul_(-d_logprob_N[:, None])
    else:  # dH/dx = -p (log p + H), and p log p = -entr(p), which is 0 at p = 0
        d_NV = torch.special.entr(p_NV).mul_(d_entropy_N[:, None])
        d_NV.addcmul_(p_NV, (d_entropy_N * entropy_N + d_logprob_N)[:, None], value=-1)
    return d_NV.scatter_add_(-1, target_N[:, None], d_logprob_N[:, None])


def chunk_of(vocabulary: int, device: str) -> int:
    """Tokens whose fp32 logits fill `CHUNK_BYTES`, 512 at most."""
    return max(1, min(512, CHUNK_BYTES[device] // (4 * vocabulary)))


def _logits(hidden_ND: Tensor, weight_VD: Tensor, banned_V: Tensor, temperature: float) -> Tensor:
    logits_NV = hidden_ND @ weight_VD.t()
    if logits_NV.dtype in (torch.bfloat16, torch.float16):
        logits_NV = logits_NV.float()
    return logits_NV.div_(temperature).masked_fill_(banned_V, -torch.inf)


class LogprobHead(nn.Linear):
    """The language model's head, asked for log-probs. One module call whatever the number of chunks: under ZeRO-3
    every rank must call it equally often. An existing `lm_head` becomes one by a change of its class."""

    def forward(
        self,
        hidden: Tensor,
        target_N: Tensor | None = None,
        banned_V: Tensor | None = None,
        temperature: float = 1.0,
        chunk: int = 0,
    ) -> Any:
        """`chunk`: tokens whose logits are made at once; 0 follows the vocabulary."""
        if target_N is None:
            return F.linear(hidden, self.weight)
        chunk = chunk or chunk_of(self.out_features, hidden.device.type)
        return _LogprobEntropy.apply(hidden, self.weight, target_N, banned_V, temperature, chunk)


class Policy(nn.Module):
    """`forward(row, pixels, grid)` -> (logprob_N, entropy_N) of the row's trained tokens, at `temperature`.

    With `read_S` also the last hidden states (S, D) at these positions of the row, of the same pass.
    `allowed_ids`: the vocabulary the engine may sample from; all others get probability 0, as in the engine.
    With `adapter` only low-rank adapters of the language model are trained, and all else is frozen.
    """

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
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"policy.dtype={dtype!r}: one of {', '.join(DTYPES)}")
        self.attention = tree_attention.choose(attention, device)
        self.chunk = chunk
        vlm = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPES[dtype])
        if type(vlm.lm_head) is not nn.Linear or vlm.lm_head.bias is not None:
            raise ValueError(
                f"policy.path={str(folder)!r}: its lm_head is no plain linear layer; use a Qwen-VL model"
            )
        vlm.lm_head.__class__ = LogprobHead
        vlm.set_attn_implementation({"text_config": self.attention, "vision_config": "sdpa"})
        if gradient_checkpointing:
            vlm.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        if freeze_vision:
            vlm.model.visual.requires_grad_(False)
        if adapter is not None:
            lora.add(vlm, adapter)
        self.vlm = vlm.to(device).train()
        banned_V = torch.ones(
            vlm.config.get_text_config().vocab_size, dtype=torch.bool, device=device
        )
        banned_V[list(allowed_ids)] = False
        self.register_buffer("banned_V", banned_V, persistent=False)

    @property
    def layout(self) -> ImageLayout:
        vision = self.vlm.config.vision_config
        return ImageLayout(
            self.vlm.config.image_token_id, vision.patch_size * vision.spatial_merge_size
        )

    def forward(
        self,
        row: GroupBatch,
        pixels: Tensor,
        grid_U3: Tensor,
        temperature: float = 1.0,
        read_S: np.ndarray | None = None,
    ) -> tuple[Tensor, ...]:
        device = self.banned_V.device
        as_tensor = lambda array: torch.as_tensor(array, device=device)
        target_N = as_tensor(row.target_N)
        if self.banned_V[target_N].any():
            bad = sorted(set(target_N[self.banned_V[target_N]].tolist()))
            raise ValueError(
                f"trained tokens {bad} are not in allowed_ids: engine and learner ban different ids"
            )
        ids_T, positions_3T, attention = self._attention(row, device)
        outputs = self.vlm.model(
            input_ids=ids_T[None],
            position_ids=positions_3T[:, None],
            mm_encoder_outputs=self._images(row, pixels.to(device), grid_U3.to(device)),
            use_cache=False,
            **attention,
        )
        hidden_TD = outputs.last_hidden_state[0]
        of_tokens = self.vlm.lm_head(
            hidden_TD[as_tensor(row.source_N)], target_N, self.banned_V, temperature, self.chunk
        )
        return of_tokens if read_S is None else (*of_tokens, hidden_TD[as_tensor(read_S)])

    def _attention(
        self, row: GroupBatch, device: torch.device
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """(ids_T, positions_3T, keywords of the model call); padded to whole blocks for flex attention."""
        pad = (
            -len(row.ids_T) % tree_attention.FLEX_BLOCK
            if self.attention == tree_attention.FLEX
            else 0
        )
        ids_T = torch.as_tensor(np.pad(row.ids_T, (0, pad)), device=device)
        positions_3T = torch.as_tensor(np.pad(row.positions_3T, ((0, 0), (0, pad))), device=device)
        if self.attention == tree_attention.SPLIT:
            return ids_T, positions_3T, {"attention_mask": None, "tree": row.segments}
        group_T = torch.as_tensor(np.pad(row.group_T, (0, pad), constant_values=-1), device=device)
        branch_T = torch.as_tensor(np.pad(row.branch_T, (0, pad)), device=device)
        return ids_T, positions_3T, {"attention_mask": tree_attention.block_mask(group_T, branch_T)}

    def _images(self, row: GroupBatch, pixels: Tensor, grid_U3: Tensor) -> dict[str, Any] | None:
        """Vision features: the tower once for each unique image, then repeated where it occurs."""
        if not len(row.image_index):
            return None
        features = self.vlm.model.get_image_features(pixels, grid_U3, return_dict=True)
        order = row.image_index.tolist()
        features.pooler_output = tuple(features.pooler_output[i] for i in order)
        if getattr(features, "deepstack_features", None) is not None:  # Qwen3-VL: layers of images
            features.deepstack_features = [
                tuple(layer[i] for i in order) for layer in features.deepstack_features
            ]
        return {"image": features}


class Pixels:
    """Images to patches, by the policy folder's own image processor: the same one the engine uses."""

    def __init__(self, folder: str | Path) -> None:
        self.processor = AutoImageProcessor.from_pretrained(folder)

    def __call__(self, images: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """uint8 (H, W, 3) images -> (patches, (U, 3) grid). Raises ValueError if the processor would resize one."""
        if not images:
            return torch.zeros(0, 0), torch.zeros(0, 3, dtype=torch.int64)
        arrays = [np.asarray(i) for i in images]
        out = self.processor(images=arrays, return_tensors="pt", input_data_format="channels_last")
        patch = self.processor.patch_size
        cell = self.processor.patch_size * self.processor.merge_size
        for image, grid in zip(images, out["image_grid_thw"].tolist(), strict=True):
            if (grid[1] * patch, grid[2] * patch) != image.shape[:2]:
                raise ValueError(
                    f"the image processor resized an image of {image.shape[0]} x {image.shape[1]} pixels to "
                    f"{grid[1] * patch} x {grid[2] * patch}: sides must be multiples of {cell} "
                    "and within min_pixels and max_pixels of preprocessor_config.json"
                )
        return out["pixel_values"], out["image_grid_thw"]
