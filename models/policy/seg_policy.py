"""A policy that also draws: `models.policy.policy.Policy`, and the mask head on its hidden states at [SEG].

Both stand in one module's forward, so one pass over a tree row gives the log-probs of its tokens and the masks of its
[SEG] tokens. To who trains it, it is a policy whose log-probs are calibrated already, with a loss of its own beside.
It knows rows and masks; nothing of rewards, advantages, optimizers or processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from core.batch import GroupBatch, ImageLayout
from core.drawing.calibration import (
    SIDE,
    THRESHOLD,
    calibrate_change,
    drawn_bits,
    log_likelihood,
    shrink,
)
from core.drawing.losses import mask_loss
from core.drawing.requests import DrawnMask, DrawnPrompt, DrawRequest, SampledMask, seg_tokens
from core.masks import decode, encode
from core.types import Rle
from models.policy import mask_head
from models.policy.mask_head import FrozenFrames, MaskHead, resize
from models.policy.policy import Policy
from models.segmenters.sam2_build import Shape


@dataclass(frozen=True)
class SegOptions:
    """What happens at [SEG]. Numbers of the released VideoSEG-O3 where not marked otherwise (SPEC B.5)."""

    calibration: float = 1.0  # weight of the mask's log-likelihood in the log-prob of [SEG]; 0: off
    side: int = SIDE  # of the grid on which a sampled mask is judged
    threshold: float = THRESHOLD  # on logits: above it a pixel of the sampled mask is set
    bce: float = 1.0  # of the auxiliary loss; supervised fine-tuning: 2.0
    dice: float = 1.0  # supervised fine-tuning: 0.5
    points: int = (
        0  # of a mask at which the loss is taken; supervised fine-tuning: 12,544; 0: all pixels
    )


@dataclass(frozen=True)
class Drawn:
    """M masks, without gradients: logits at the decoder's resolution, and the language tokens they were drawn from."""

    logits_Mhw: Tensor
    token_MC: Tensor


class SegPolicy(nn.Module):
    """`forward(row, pixels, grid)` is the policy's; with `masks` it returns five things, see there.

    Only `policy` and `head` are this module's: the frozen image encoder is not trained, sharded or saved with it.
    """

    def __init__(
        self,
        policy: Policy,
        head: MaskHead,
        frozen: FrozenFrames,
        seg_id: int,
        options: SegOptions | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.seg_id = seg_id
        self.options = options or SegOptions()
        self.head = head.to(policy.banned_V.device)
        self.frozen = frozen

    @property
    def vlm(self) -> Any:
        """What the engine gets, and what is saved as the policy."""
        return self.policy.vlm

    @property
    def layout(self) -> ImageLayout:
        return self.policy.layout

    def forward(
        self,
        row: GroupBatch,
        pixels: Tensor,
        grid_U3: Tensor,
        temperature: float = 1.0,
        masks: Sequence[DrawRequest] | None = None,
        frames: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[Any, ...]:
        """(logprob_N, entropy_N, auxiliary, text_logprob_N, (logits_Mhw, token_MC)); without `masks` the first two.

        `masks`: of this row's episodes (`core.drawing.requests.requests_of_row`); `frames`: pixels of their frames. `logprob_N` is
        calibrated where a mask was sampled, `text_logprob_N` nowhere (the KL term is about text). `auxiliary` is the
        row's share of the batch's mask loss. An empty `masks` runs the head as well, for ranks must call it alike.
        """
        if masks is None:
            return self.policy(row, pixels, grid_U3, temperature)
        at = seg_tokens(row, masks, self.seg_id)
        read_S = at.position_S if masks else np.zeros(1, np.int64)
        text_N, entropy_N, hidden_SD = self.policy(row, pixels, grid_U3, temperature, read_S)
        maps = (
            self.frozen([m.digest for m in masks], frames or {}) if masks else self.frozen.blank()
        )
        seg_M = torch.as_tensor(at.seg_M if masks else read_S, device=text_N.device)
        logits_Mhw, token_MC = self.head(hidden_SD, maps, seg_M)
        logprob_N = self._calibrated(text_N, logits_Mhw, masks, at.token_S[at.seg_M])
        auxiliary = self._auxiliary(logits_Mhw, masks) * float(
            row.weight_N.any()
        )  # a dummy row counts nowhere
        return logprob_N, entropy_N, auxiliary, text_N, (logits_Mhw, token_MC)

    @torch.no_grad()
    def masks(
        self,
        row: GroupBatch,
        pixels: Tensor,
        grid_U3: Tensor,
        masks: Sequence[DrawRequest],
        frames: Mapping[str, np.ndarray],
    ) -> Drawn:
        """The masks of finished episodes, from one teacher-forced pass over their row."""
        logits_Mhw, token_MC = self(row, pixels, grid_U3, 1.0, masks, frames)[-1]
        return Drawn(
            logits_Mhw[: len(masks)], token_MC[: len(masks)]
        )  # without masks the head drew one of nothing

    def draw(
        self,
        row: GroupBatch,
        pixels: Tensor,
        grid_U3: Tensor,
        masks: Sequence[DrawRequest],
        frames: Mapping[str, np.ndarray],
    ) -> list[DrawnMask]:
        """As `masks`, in the form in which they travel: to rewards, to calibration and to the segmenter."""
        drawn = self.masks(row, pixels, grid_U3, masks, frames)
        logits_Mhw = drawn.logits_Mhw.cpu().numpy()
        token_MC = drawn.token_MC.float().cpu().numpy()
        made = []
        for i, (mask, sampled) in enumerate(
            zip(masks, self.sampled(drawn.logits_Mhw), strict=True)
        ):
            full_HW = resize(drawn.logits_Mhw[i : i + 1], *frames[mask.digest].shape[:2])[0] > 0
            tracked = mask.prompt.role == "final"
            prompt = DrawnPrompt(mask.prompt.frame, logits_Mhw[i], token_MC[i]) if tracked else None
            made.append(DrawnMask(encode(full_HW.cpu().numpy()), sampled, prompt))
        return made

    @torch.no_grad()
    def sampled(self, logits_Mhw: Tensor) -> list[SampledMask]:
        """What calibration must remember of masks that were just drawn."""
        small_Mss = shrink(logits_Mhw, self.options.side)
        bits_Mss = drawn_bits(small_Mss, self.options.threshold)
        logliks = log_likelihood(small_Mss, bits_Mss).tolist()
        return [
            SampledMask(b, value) for b, value in zip(bits_Mss.cpu().numpy(), logliks, strict=True)
        ]

    def _calibrated(
        self,
        logprob_N: Tensor,
        logits_Mhw: Tensor,
        masks: Sequence[DrawRequest],
        token_M: np.ndarray,
    ) -> Tensor:
        """In ratio form, to be compared with the engine's textual log-probs (`core.drawing.calibration.calibrate_change`)."""
        sampled = [(i, mask.sampled) for i, mask in enumerate(masks) if mask.sampled is not None]
        if not self.options.calibration or not sampled:
            return logprob_N
        index_C = [i for i, _ in sampled]
        as_tensor = lambda array: torch.as_tensor(array, device=logprob_N.device)
        bits_Css = as_tensor(np.stack([s.bits for _, s in sampled]))
        now_C = log_likelihood(shrink(logits_Mhw[index_C], self.options.side), bits_Css)
        old_C = now_C.new_tensor([s.loglik for _, s in sampled])
        token_C = as_tensor(token_M[index_C])
        return calibrate_change(logprob_N, token_C, now_C, old_C, self.options.calibration)

    def _auxiliary(self, logits_Mhw: Tensor, masks: Sequence[DrawRequest]) -> Tensor:
        """Sum of the weighted losses; 0 with a graph where there are none."""
        nothing = 0.0 * logits_Mhw.sum()
        index = [i for i, mask in enumerate(masks) if mask.weight]
        if not index:
            return nothing
        truth_Ahw = torch.stack([shrunk(masks[i].truth, logits_Mhw) for i in index])
        options = self.options
        loss_A = mask_loss(logits_Mhw[index], truth_Ahw, options.bce, options.dice, options.points)
        return nothing + (loss_A.new_tensor([masks[i].weight for i in index]) * loss_A).sum()


def attach(
    policy: Policy,
    folder: Path,
    sam: SAM2Base,
    shape: Shape,
    seg_id: int,
    options: SegOptions | None = None,
    *,
    fresh: bool = False,
) -> SegPolicy:
    """The policy that was loaded from `folder`, with the mask head that lies there, over a SAM 2 that it freezes.

    `fresh`: where there is no head a new one is made, for a warm start. Raises ValueError as `mask_head.load`.
    """
    width = policy.vlm.config.get_text_config().hidden_size
    new = fresh and not (folder / mask_head.FOLDER).is_dir()
    head = MaskHead(sam, width) if new else mask_head.load(folder, sam, width)
    dtype = next(policy.vlm.parameters()).dtype
    device = policy.banned_V.device
    return SegPolicy(policy, head.to(dtype), FrozenFrames(sam, shape, str(device)), seg_id, options)


def shrunk(truth: Rle | None, logits_Mhw: Tensor) -> Tensor:
    """The true mask at the decoder's resolution, (h, w): the share of each cell that the object covers."""
    height, width = logits_Mhw.shape[1:]
    if truth is None:
        return logits_Mhw.new_zeros(height, width)
    full_HW = torch.as_tensor(decode(truth), device=logits_Mhw.device).to(logits_Mhw.dtype)
    return F.interpolate(full_HW[None, None], size=(height, width), mode="area")[0, 0]
