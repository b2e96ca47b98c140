"""Rolls the segmenter being trained over a batch of tracks, and measures it on clips that training never sees."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from models.segmenters import sam2_track
from tiny.segmenter_school import clips as clips
from tiny.segmenter_school.tracks import draw_points
from tiny.world.scene import MIN_AREA, NUM_FRAMES

Held = list[tuple[np.void, int, int]]  # (clip, object, prompted frame)


class RawMasks:
    """Mask logits as the decoder makes them: SAM 2 replaces them by -1024 where it believes the object absent,
    and nothing could be learned from that."""

    def __init__(self, model: SAM2Base) -> None:
        self.masks: list[Tensor] = []
        self.scores: list[Tensor] = []
        model.sam_mask_decoder.register_forward_hook(self._keep)

    def _keep(self, _module: object, _inputs: object, output: tuple[Tensor, ...]) -> None:
        self.masks.append(output[0])
        self.scores.append(output[3])

    def take(self) -> tuple[Tensor, Tensor]:
        """Logits (T, B, h, w) and object scores (T, B) since the last call."""
        taken = torch.stack(self.masks)[:, :, 0].float(), torch.stack(self.scores)[..., 0].float()
        self.masks = []
        self.scores = []
        return taken


def roll(
    model: SAM2Base, raw: RawMasks, frames_BTHWC: Tensor, points: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Tracks B objects over T frames; logits (T, B, h, w) before gating, and scores (T, B)."""
    batch, length = frames_BTHWC.shape[:2]
    images = sam2_track.normalise(frames_BTHWC.transpose(0, 1).flatten(0, 1), model.image_size)
    maps = sam2_track.encode(model, images)
    memory = sam2_track.new_memory()
    for t in range(length):
        now = tuple(m[t * batch : (t + 1) * batch] for m in maps)
        sam2_track.step(model, now, t, memory, points if t == 0 else None, dense_prompt=True)
    return raw.take()


def held_out(seed: int, count: int, textured: float) -> Held:
    """(clip, object, prompted frame) that training never sees."""
    found = []
    for i in range(count):
        rng = np.random.default_rng((seed, 1_000_003, i))
        made = clips.clip(rng, textured)
        first, thing = rng.choice(np.argwhere(clips.areas(made["owner_FHW"]) >= 4 * MIN_AREA))
        found.append((made, int(thing), int(first)))
    return found


@torch.no_grad()
def evaluate(
    model: SAM2Base, raw: RawMasks, held: Held, device: str, kind: tuple[bool, int]
) -> dict[str, float]:
    """IoU on the prompted frame, mean J over the other visible frames, and how often presence is right, both ways."""
    frames = torch.from_numpy(np.stack([c["frames_FHWC"] for c, _, _ in held])).to(device)
    masks = torch.from_numpy(np.stack([c["owner_FHW"] == o for c, o, _ in held])).to(device)
    first_B = torch.tensor([f for _, _, f in held], device=device)
    rows = torch.arange(len(held), device=device)
    totals = []
    for way in (1, -1):
        length = NUM_FRAMES - min(f for *_, f in held) if way > 0 else max(f for *_, f in held) + 1
        at_BT = first_B[:, None] + way * torch.arange(length, device=device)
        valid = (at_BT >= 0) & (at_BT < NUM_FRAMES)
        at_BT = at_BT.clamp(0, NUM_FRAMES - 1)
        truth_TB = masks[rows[:, None], at_BT].transpose(0, 1)
        torch.manual_seed(0)
        points = draw_points(truth_TB[0], kind, 0.0, model.image_size)
        logits, score = roll(model, raw, frames[rows[:, None], at_BT], points)
        totals.append(_measure(logits, score, truth_TB, valid.transpose(0, 1), way > 0))
    iou, j, seen, right_gone, gone, right_seen = torch.stack(totals).sum(0).tolist()
    return {
        "iou": iou / len(held),
        "j": j / seen,
        "absent": right_gone / max(gone, 1),
        "present": right_seen / seen,
    }


def _measure(
    logits: Tensor, score: Tensor, truth_TB: Tensor, valid: Tensor, with_first: bool
) -> Tensor:
    """Sums: IoU at t = 0; J, count of the later visible frames; right, count of absent ones; right present ones."""
    pred = F.interpolate(logits, size=truth_TB.shape[-2:], mode="bilinear", align_corners=False) > 0
    pred &= (score > 0)[..., None, None]
    area = truth_TB.sum((2, 3))
    iou = (pred & truth_TB).sum((2, 3)) / (pred | truth_TB).sum((2, 3)).clamp(min=1)
    seen = valid & (area >= MIN_AREA)
    gone = valid & (area == 0)
    seen[0] = False
    empty = ~pred.flatten(2).any(2)
    parts = (iou[0] * with_first, iou * seen, seen, empty & gone, gone, ~empty & seen)
    return torch.stack([p.sum().float() for p in parts])
