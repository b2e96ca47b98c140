"""A policy with a mask head on its hidden states at [SEG] tokens.

Both are one module, so one pass over a tree row gives the log-probs of its tokens and the masks of
its [SEG] tokens. The learner sees a policy with calibrated log-probs and a loss of its own
(VideoSEG-O3).
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
from core.drawing.requests import (
    DrawnMask,
    DrawnPrompt,
    DrawRequest,
    SampledMask,
    SegTokens,
    seg_tokens,
)
from core.masks import decode, encode
from core.types import Rle
from models.policy import mask_head
from models.policy.mask_head import FrameFeatures, MaskHead, resize_logits
from models.policy.policy import Policy, PolicyOutput
from models.segmenters.sam2_shape import Shape
from models.segmenters.sam2_track import Maps


@dataclass(frozen=True)
class SegOptions:
    """Settings of [SEG]. Defaults are those of VideoSEG-O3's released reinforcement learning.

    Source: docs/spec/videoseg_o3.md. Supervised fine-tuning uses bce 2.0, dice 0.5 and 12,544
    points.

    Attributes:
        calibration: weight of the mask's log-likelihood in the log-prob of [SEG]; 0 turns
            calibration off.
        side: side of the grid of sampled masks.
        threshold: pixels with a logit above this belong to a sampled mask.
        bce: weight of the binary cross-entropy in the auxiliary loss.
        dice: weight of the Dice loss in it.
        points: points of a mask in the auxiliary loss; 0 takes all pixels.
        multimask: draw the best of three masks by predicted IoU.
    """

    calibration: float = 1.0
    side: int = SIDE
    threshold: float = THRESHOLD
    bce: float = 1.0
    dice: float = 1.0
    points: int = 0
    multimask: bool = False


@dataclass(frozen=True)
class MaskLogits:
    """M masks without gradients, and the language tokens they were decoded from."""

    logits_Mhw: Tensor
    token_MC: Tensor


class SegPolicy(nn.Module):
    """A policy with a mask head.

    The frozen image encoder of SAM 2 is not a submodule: it must not be trained, sharded or saved
    with the policy.
    """

    def __init__(
        self,
        policy: Policy,
        head: MaskHead,
        frozen: FrameFeatures,
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
        """The vision-language model: the engine's weights, and the policy on disk."""
        return self.policy.vlm

    @property
    def layout(self) -> ImageLayout:
        """As `Policy.layout`."""
        return self.policy.layout

    def forward(
        self,
        row: GroupBatch,
        pixels: Tensor,
        grid_U3: Tensor,
        temperature: float = 1.0,
        requests: Sequence[DrawRequest] | None = None,
        frames: Mapping[str, np.ndarray] | None = None,
    ) -> PolicyOutput:
        """Return the policy's output, and with `requests` the masks of the row's episodes.

        Args:
            row, pixels, grid_U3, temperature: as `Policy.forward`.
            requests: masks of this row (`core.drawing.requests.requests_of_row`). An empty list
                runs the head as well, because under ZeRO-3 all ranks must call it alike.
            frames: pixels of the requests' frames by digest, uint8 (H, W, 3).
        """
        if requests is None:
            return self.policy(row, pixels, grid_U3, temperature)

        tokens = seg_tokens(row, requests, self.seg_id)
        maps, read_S, seg_M = self._head_inputs(tokens, requests, frames or {})
        output: PolicyOutput = self.policy(row, pixels, grid_U3, temperature, read_S)
        logits_Mhw, token_MC = self.head(output.hidden_SD, maps, seg_M)

        text_N = output.logprob_N
        token_M = tokens.token_S[tokens.seg_M]
        calibrated_N = self._calibrated(text_N, logits_Mhw, requests, token_M)

        # A dummy row counts nowhere.
        counts = float(row.weight_N.any())
        auxiliary = self._auxiliary(logits_Mhw, requests) * counts
        return output._replace(
            logprob_N=calibrated_N,
            auxiliary=auxiliary,
            text_logprob_N=text_N,
            logits_Mhw=logits_Mhw,
            token_MC=token_MC,
        )

    def _head_inputs(
        self,
        tokens: SegTokens,
        requests: Sequence[DrawRequest],
        frames: Mapping[str, np.ndarray],
    ) -> tuple[Maps, np.ndarray, Tensor]:
        """Return features of the frames, positions to read in the row, and each mask's token."""
        device = self.policy.banned_V.device
        if not requests:
            # The head draws one mask of nothing, at the row's first position.
            first = np.zeros(1, np.int64)
            return self.frozen.blank(), first, torch.as_tensor(first, device=device)
        maps = self.frozen([request.digest for request in requests], frames)
        return maps, tokens.position_S, torch.as_tensor(tokens.seg_M, device=device)

    @torch.no_grad()
    def mask_logits(
        self,
        row: GroupBatch,
        pixels: Tensor,
        grid_U3: Tensor,
        requests: Sequence[DrawRequest],
        frames: Mapping[str, np.ndarray],
    ) -> MaskLogits:
        """Return the masks of finished episodes from one teacher-forced pass over their row."""
        output = self(row, pixels, grid_U3, 1.0, requests, frames)
        count = len(requests)
        return MaskLogits(output.logits_Mhw[:count], output.token_MC[:count])

    def draw(
        self,
        row: GroupBatch,
        pixels: Tensor,
        grid_U3: Tensor,
        requests: Sequence[DrawRequest],
        frames: Mapping[str, np.ndarray],
    ) -> list[DrawnMask]:
        """Return the drawn masks for rewards, calibration and the segmenter."""
        found = self.mask_logits(row, pixels, grid_U3, requests, frames)
        samples = self.sampled(found.logits_Mhw)
        logits_Mhw = found.logits_Mhw.cpu().numpy()
        token_MC = found.token_MC.float().cpu().numpy()

        drawn = []
        for i, (request, sample) in enumerate(zip(requests, samples, strict=True)):
            height, width = frames[request.digest].shape[:2]
            own_1hw = found.logits_Mhw[i : i + 1]
            full_HW = resize_logits(own_1hw, height, width)[0] > 0
            prompt = None
            if request.prompt.role == "final":
                prompt = DrawnPrompt(request.prompt.frame, logits_Mhw[i], token_MC[i])
            rle = encode(full_HW.cpu().numpy())
            drawn.append(DrawnMask(rle, sample, prompt))
        return drawn

    @torch.no_grad()
    def sampled(self, logits_Mhw: Tensor) -> list[SampledMask]:
        """Return the masks just drawn, as calibration needs them later."""
        small_Mss = shrink(logits_Mhw, self.options.side)
        bits_Mss = drawn_bits(small_Mss, self.options.threshold)
        loglik_M = log_likelihood(small_Mss, bits_Mss).tolist()

        samples = []
        for bits_ss, loglik in zip(bits_Mss.cpu().numpy(), loglik_M, strict=True):
            samples.append(SampledMask(bits_ss, loglik))
        return samples

    def _calibrated(
        self,
        logprob_N: Tensor,
        logits_Mhw: Tensor,
        requests: Sequence[DrawRequest],
        token_M: np.ndarray,
    ) -> Tensor:
        """Return calibrated log-probs in ratio form, for comparison with the engine's textual ones.

        See `core.drawing.calibration.calibrate_change`.
        """
        index_C = []
        samples = []
        for i, request in enumerate(requests):
            if request.sampled is not None:
                index_C.append(i)
                samples.append(request.sampled)
        if not self.options.calibration or not samples:
            return logprob_N

        device = logprob_N.device
        bits = np.stack([sample.bits for sample in samples])
        bits_Css = torch.as_tensor(bits, device=device)
        now_C = log_likelihood(shrink(logits_Mhw[index_C], self.options.side), bits_Css)
        old_C = now_C.new_tensor([sample.loglik for sample in samples])
        token_C = torch.as_tensor(token_M[index_C], device=device)
        return calibrate_change(logprob_N, token_C, now_C, old_C, self.options.calibration)

    def _auxiliary(self, logits_Mhw: Tensor, requests: Sequence[DrawRequest]) -> Tensor:
        """Return the sum of the weighted mask losses; without weights 0, with a graph."""
        nothing = 0.0 * logits_Mhw.sum()
        index_A = [i for i, request in enumerate(requests) if request.weight]
        if not index_A:
            return nothing

        options = self.options
        truths = [shrink_truth(requests[i].truth, logits_Mhw) for i in index_A]
        truth_Ahw = torch.stack(truths)
        loss_A = mask_loss(
            logits_Mhw[index_A],
            truth_Ahw,
            options.bce,
            options.dice,
            options.points,
        )
        weight_A = loss_A.new_tensor([requests[i].weight for i in index_A])
        return nothing + (weight_A * loss_A).sum()


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
    """Return the policy with the mask head of its folder, over a frozen SAM 2.

    Args:
        policy: loaded from `folder`.
        folder: the policy's folder, with the head in a folder of its own (`mask_head.FOLDER`).
        sam: the SAM 2 under the head; a fresh head copies its decoder.
        shape: its shape.
        seg_id: id of the [SEG] token.
        options: settings of [SEG].
        fresh: make a new head if the folder has none, for a warm start.

    Raises:
        ValueError: as `mask_head.load`.
    """
    width = policy.family.hidden_size
    multimask = options.multimask if options else False
    if fresh and not (folder / mask_head.FOLDER).is_dir():
        head = MaskHead(sam, width, multimask)
    else:
        head = mask_head.load(folder, sam, width, multimask)

    dtype = next(policy.vlm.parameters()).dtype
    frozen = FrameFeatures(sam, shape, str(policy.banned_V.device))
    return SegPolicy(policy, head.to(dtype), frozen, seg_id, options)


def shrink_truth(truth: Rle | None, logits_Mhw: Tensor) -> Tensor:
    """Return the true mask at the decoder's resolution, (h, w): the object's share of each cell."""
    height, width = logits_Mhw.shape[1:]
    if truth is None:
        return logits_Mhw.new_zeros(height, width)
    bits_HW = torch.as_tensor(decode(truth), device=logits_Mhw.device)
    full_11HW = bits_HW.to(logits_Mhw.dtype)[None, None]
    return F.interpolate(full_11HW, size=(height, width), mode="area")[0, 0]
