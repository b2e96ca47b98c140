"""The segmenter in training, rolled over batches of tracks, and its figures on held-out clips."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from models.segmenters import sam2_track
from tiny.segmenter_school import clips
from tiny.segmenter_school.tracks import PromptKind, random_prompts
from tiny.world.scene import MIN_AREA, NUM_FRAMES


class Held(NamedTuple):
    """A held-out clip, an object in it and the frame on which it is prompted."""

    clip: np.void
    thing: int
    frame: int


class RawMasks:
    """Mask logits as the decoder makes them.

    SAM 2 replaces them by -1024 if it believes the object absent, and nothing could be learned from
    that.
    """

    def __init__(self, model: SAM2Base) -> None:
        self.masks: list[Tensor] = []
        self.scores: list[Tensor] = []
        model.sam_mask_decoder.register_forward_hook(self._keep)

    def _keep(self, _module: object, _inputs: object, output: tuple[Tensor, ...]) -> None:
        self.masks.append(output[0])
        self.scores.append(output[3])

    def take(self) -> tuple[Tensor, Tensor]:
        """Return logits (T, B, h, w) and object scores (T, B) since the last call."""
        masks = torch.stack(self.masks)[:, :, 0].float()
        scores = torch.stack(self.scores)[..., 0].float()
        self.masks = []
        self.scores = []
        return masks, scores


def track_batch(
    model: SAM2Base, raw: RawMasks, frames_BTHWC: Tensor, prompts: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Track B objects over T frames from prompts on the first.

    Returns:
        Logits (T, B, h, w) before gating, and object scores (T, B).
    """
    batch, length = frames_BTHWC.shape[:2]
    images = sam2_track.normalise(frames_BTHWC.transpose(0, 1).flatten(0, 1), model.image_size)
    maps = sam2_track.encode(model, images)
    memory = sam2_track.new_memory()
    for t in range(length):
        now = tuple(features[t * batch : (t + 1) * batch] for features in maps)
        given = prompts if t == 0 else None
        sam2_track.step(model, now, t, memory, given, dense_prompt=True)
    return raw.take()


def held_out(seed: int, count: int, textured: float) -> list[Held]:
    """Return clips from seeds that no worker uses."""
    held = []
    for i in range(count):
        rng = np.random.default_rng((seed, 1_000_003, i))
        clip = clips.random_clip(rng, textured)
        visible = np.argwhere(clips.object_areas(clip["owner_FHW"]) >= 4 * MIN_AREA)
        frame, thing = rng.choice(visible)
        held.append(Held(clip, int(thing), int(frame)))
    return held


@torch.no_grad()
def evaluate(
    model: SAM2Base, raw: RawMasks, held: list[Held], device: str, kind: PromptKind
) -> dict[str, float]:
    """Prompt each held-out object and track it both ways.

    Returns:
        "iou" on the prompted frame, mean "j" over the other visible frames, and how often
        "absent" and "present" objects are recognised as such.
    """
    frames = torch.from_numpy(np.stack([one.clip["frames_FHWC"] for one in held])).to(device)
    masks_BFHW = np.stack([one.clip["owner_FHW"] == one.thing for one in held])
    masks = torch.from_numpy(masks_BFHW).to(device)
    prompted = [one.frame for one in held]
    first_B = torch.tensor(prompted, device=device)
    rows = torch.arange(len(held), device=device)

    totals = []
    for way in (1, -1):
        length = NUM_FRAMES - min(prompted) if way > 0 else max(prompted) + 1
        at_BT = first_B[:, None] + way * torch.arange(length, device=device)
        valid_BT = (at_BT >= 0) & (at_BT < NUM_FRAMES)
        at_BT = at_BT.clamp(0, NUM_FRAMES - 1)
        truth_TB = masks[rows[:, None], at_BT].transpose(0, 1)
        torch.manual_seed(0)
        prompts = random_prompts(truth_TB[0], kind, 0.0, model.image_size)
        logits, score = track_batch(model, raw, frames[rows[:, None], at_BT], prompts)
        # The prompted frame is in both ways, and counts once.
        totals.append(_sums(logits, score, truth_TB, valid_BT.transpose(0, 1), way > 0))

    iou, j, visible, right_absent, absent, right_present = torch.stack(totals).sum(0).tolist()
    return {
        "iou": iou / len(held),
        "j": j / visible,
        "absent": right_absent / max(absent, 1),
        "present": right_present / visible,
    }


def _sums(
    logits: Tensor, score: Tensor, truth_TB: Tensor, valid: Tensor, with_first: bool
) -> Tensor:
    """Return sums over tracks and frames.

    They are: IoU at t = 0; J and number of the later visible frames; right answers and number of
    the absent ones; right answers of the visible ones.
    """
    pred = F.interpolate(logits, size=truth_TB.shape[-2:], mode="bilinear", align_corners=False) > 0
    pred &= (score > 0)[..., None, None]
    area = truth_TB.sum((2, 3))
    intersection = (pred & truth_TB).sum((2, 3))
    union = (pred | truth_TB).sum((2, 3))
    iou = intersection / union.clamp(min=1)
    visible = valid & (area >= MIN_AREA)
    absent = valid & (area == 0)
    visible[0] = False
    empty = ~pred.flatten(2).any(2)
    parts = (iou[0] * with_first, iou * visible, visible, empty & absent, absent, ~empty & visible)
    return torch.stack([part.sum().float() for part in parts])
