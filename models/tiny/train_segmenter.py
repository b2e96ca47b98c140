"""Trains the tiny SAM 2 from nothing: `python -m models.tiny.train_segmenter --out DIR --minutes 8 --workers 3`.

Worker processes draw clips on CPU; the training process keeps thousands of them on its device and takes from each many
training tracks (an object, a prompted frame, a direction, a stride), so the data rate does not bound the speed. On a
GPU eight minutes are enough; on CPU it runs too, with smaller batches and far fewer steps.
The model must also learn absence: frames before an object comes and after it has left are in every batch.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from data.synthetic.scene import MIN_AREA, NUM_FRAMES
from models import sam2_build, sam2_track
from models.tiny import segmenter_clips as clips

# What a training step shows at its prompted frame: (box, number of points); points off the object count as points.
KINDS = ((True, 0), (True, 0), (True, 0), (True, 1), (True, 2), (False, 1), (False, 2), (False, 3))


@dataclass(frozen=True)
class Options:
    out: Path
    minutes: float
    workers: int
    init: Path | None
    device: str
    clips: int  # tracks of a step when they are 8 frames long
    pool: int  # clips kept on the device
    lr: float
    textured: float  # share of textured clips
    seed: int
    log_every: float = 20.0  # seconds
    save_every: float = 120.0


@dataclass(frozen=True)
class Tracks:
    """B tracks of T frames: frames uint8 (B, T, H, W, 3), masks bool (B, T, H, W), counted bool (B, T).

    `counted` is False where only a sliver is visible: neither present nor absent can be asked for there.
    """

    frames: Tensor
    masks: Tensor
    counted: Tensor


class Pool:
    """The newest clips of the workers, on the training device; areas stay on CPU, where tracks are chosen."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.device, self.ring = torch.device(options.device), 512 if options.device == "cuda" else 48
        self.slots, self.counters = clips.create(folder / "clips", options.workers, self.ring)
        shape = clips.CLIP.fields["frames_FHWC"][0].shape  # type: ignore[index]
        self.frames = torch.zeros((options.pool, *shape), dtype=torch.uint8, device=self.device)
        self.owner = torch.full((options.pool, *shape[:-1]), -1, dtype=torch.int8, device=self.device)
        self.areas = np.zeros((options.pool, NUM_FRAMES, clips.MAX_OBJECTS), np.int64)
        self.total = 0
        context = multiprocessing.get_context("spawn")
        for worker in range(options.workers):
            args = (folder / "clips", worker, options.workers, self.ring, options.seed, options.textured)
            context.Process(target=clips.produce, args=args, daemon=True).start()

    @property
    def size(self) -> int:
        return min(self.total, len(self.frames))

    def refresh(self) -> None:
        """Takes over what the workers have written; in bulk, because each copy stalls the device."""
        for worker, (written, read) in enumerate(self.counters.copy()):
            for number in range(int(read), int(written)):
                self._store(self.slots[worker, number % self.ring])
            self.counters[worker, 1] = written

    def _store(self, clip: np.void) -> None:
        place = self.total % len(self.frames)
        self.frames[place].copy_(torch.from_numpy(np.array(clip["frames_FHWC"])))
        self.owner[place].copy_(torch.from_numpy(np.array(clip["owner_FHW"])))
        self.areas[place] = clips.areas(clip["owner_FHW"])
        self.total += 1

    def wait_for(self, count: int) -> None:
        while self.total < count:
            time.sleep(0.1)
            self.refresh()


def choose(rng: np.random.Generator, areas_FO: np.ndarray, length: int) -> tuple[int, np.ndarray]:
    """An object and the frames of a track of it: from a frame where it is well visible, either way in time."""
    first, thing = rng.choice(np.argwhere(areas_FO >= 2 * MIN_AREA))
    way = int(rng.choice((-1, 1)))
    room = NUM_FRAMES - 1 - first if way > 0 else first
    other = NUM_FRAMES - 1 - room
    if room < length - 1 and other > room:
        way, room = -way, other
    stride = int(rng.integers(1, min(3, max(1, room // max(length - 1, 1))) + 1))
    return int(thing), np.clip(first + way * stride * np.arange(length), 0, NUM_FRAMES - 1)


def draw_tracks(pool: Pool, rng: np.random.Generator, batch: int, length: int) -> Tracks:
    """A training batch, with flips and shuffled colour channels."""
    usable = np.flatnonzero((pool.areas[: pool.size] >= 2 * MIN_AREA).any((1, 2)))
    clip_B = rng.choice(usable, batch)
    chosen = [choose(rng, pool.areas[n], length) for n in clip_B]
    thing_B, frame_BT = np.array([c[0] for c in chosen]), np.stack([c[1] for c in chosen])
    area_BT = pool.areas[clip_B[:, None], frame_BT, thing_B[:, None]]
    channel_B3 = np.stack([rng.permutation(3) for _ in range(batch)])
    n, f, o, c, counted = (
        torch.from_numpy(x).to(pool.device, non_blocking=True)
        for x in (clip_B, frame_BT, thing_B, channel_B3, (area_BT == 0) | (area_BT >= MIN_AREA))
    )
    frames = pool.frames[n[:, None], f]
    frames = torch.gather(frames, -1, c[:, None, None, None].expand_as(frames))
    masks = pool.owner[n[:, None], f] == o[:, None, None, None]
    for axis in (2, 3):
        if rng.random() < 0.5:
            frames, masks = frames.flip(axis), masks.flip(axis)
    return Tracks(frames, masks, counted)


def draw_points(masks_BHW: Tensor, kind: tuple[bool, int], jitter: float, size: int) -> dict[str, Tensor]:
    """Prompts for the objects under the masks, in the model's pixels; without a device synchronisation.

    A box is moved by up to `jitter` of its size (normal); a point lies on the object, and the last of several points
    sometimes beside it.
    """
    batch, height, width = masks_BHW.shape
    across, down = masks_BHW.any(1).int(), masks_BHW.any(2).int()
    low = torch.stack([across.argmax(1), down.argmax(1)], 1).float()
    high = torch.stack([width - across.flip(1).argmax(1), height - down.flip(1).argmax(1)], 1).float()
    limit = masks_BHW.new_tensor([width, height], dtype=torch.float32)
    span = high - low
    coords, labels = [], []
    if kind[0]:
        for corner, label in ((low, 2), (high, 3)):
            moved = corner + torch.randn_like(corner) * jitter * span
            coords.append(torch.minimum(moved.clamp(min=0), limit))
            labels.append(torch.full((batch,), label, device=low.device))
    for index in range(kind[1]):
        off = torch.rand(batch, device=low.device) < (0.4 if index and index == kind[1] - 1 else 0.0)
        beside_BHW = ~masks_BHW & _near(low, high, masks_BHW)
        coords.append(_random_pixel(torch.where(off[:, None, None], beside_BHW, masks_BHW)))
        labels.append((~off).long())
    return {
        "point_coords": torch.stack(coords, 1) * (size / limit),
        "point_labels": torch.stack(labels, 1).int(),
    }


def _near(low: Tensor, high: Tensor, like_BHW: Tensor) -> Tensor:
    """Pixels in the boxes enlarged by half, bool (B, H, W)."""
    pad = (high - low) / 4
    inside = []
    for axis, length in ((0, like_BHW.shape[2]), (1, like_BHW.shape[1])):
        cell = torch.arange(length, device=low.device)
        inside.append((cell >= (low - pad)[:, axis, None]) & (cell < (high + pad)[:, axis, None]))
    return inside[1][:, :, None] & inside[0][:, None, :]


def _random_pixel(allowed_BHW: Tensor) -> Tensor:
    """The centre (x, y) of a random allowed pixel of each row."""
    width = allowed_BHW.shape[2]
    index = (torch.rand(allowed_BHW.shape, device=allowed_BHW.device) * allowed_BHW).flatten(1).argmax(1)
    return torch.stack([index % width, index // width], 1).float() + 0.5


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
        self.masks, self.scores = [], []
        return taken


def roll(model: SAM2Base, raw: RawMasks, frames_BTHWC: Tensor, points: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Tracks B objects over T frames; logits (T, B, h, w) before gating, and scores (T, B)."""
    batch, length = frames_BTHWC.shape[:2]
    images = sam2_track.normalise(frames_BTHWC.transpose(0, 1).flatten(0, 1), model.image_size)
    maps = sam2_track.encode(model, images)
    memory = sam2_track.new_memory()
    for t in range(length):
        now = tuple(m[t * batch : (t + 1) * batch] for m in maps)
        sam2_track.step(model, now, t, memory, points if t == 0 else None, dense_prompt=True)
    return raw.take()


def loss_of(logits_TBhw: Tensor, score_TB: Tensor, tracks: Tracks) -> Tensor:
    """Focal + cross entropy + dice where the object is visible, cross entropy of the object score everywhere.

    The official focal weights (20, alpha .25) collapse to empty masks when nothing is pretrained.
    """
    masks = tracks.masks.transpose(0, 1).float()
    counted = tracks.counted.transpose(0, 1).float()
    visible = (masks.flatten(2).sum(2) > 0).float()
    x = F.interpolate(logits_TBhw, size=masks.shape[-2:], mode="bilinear", align_corners=False).clamp(-30, 30)
    entropy = F.binary_cross_entropy_with_logits(x, masks, reduction="none")
    p = x.sigmoid()
    focal = 0.5 * entropy * (1 - p * masks - (1 - p) * (1 - masks)) ** 2
    dice = 1 - (2 * (p * masks).sum((2, 3)) + 1) / (p.sum((2, 3)) + masks.sum((2, 3)) + 1)
    shape = (10 * focal.mean((2, 3)) + entropy.mean((2, 3)) + dice) * visible * counted
    presence = F.binary_cross_entropy_with_logits(score_TB, visible, reduction="none") * counted
    return shape.sum() / (visible * counted).sum().clamp(min=1) + presence.mean()


def held_out(seed: int, count: int, textured: float) -> list[tuple[np.void, int, int]]:
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
    model: SAM2Base, raw: RawMasks, held: list[tuple[np.void, int, int]], device: str, kind: tuple[bool, int]
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
    return {"iou": iou / len(held), "j": j / seen, "absent": right_gone / max(gone, 1), "present": right_seen / seen}


def _measure(logits: Tensor, score: Tensor, truth_TB: Tensor, valid: Tensor, with_first: bool) -> Tensor:
    """Sums: IoU at t = 0; J, count of the later visible frames; right, count of absent ones; right present ones."""
    pred = F.interpolate(logits, size=truth_TB.shape[-2:], mode="bilinear", align_corners=False) > 0
    pred &= (score > 0)[..., None, None]
    area = truth_TB.sum((2, 3))
    iou = (pred & truth_TB).sum((2, 3)) / (pred | truth_TB).sum((2, 3)).clamp(min=1)
    seen, gone = valid & (area >= MIN_AREA), valid & (area == 0)
    seen[0] = False
    empty = ~pred.flatten(2).any(2)
    parts = (iou[0] * with_first, iou * seen, seen, empty & gone, gone, ~empty & seen)
    return torch.stack([p.sum().float() for p in parts])


def plan(fraction: float, batch: int) -> tuple[int, int]:
    """(length, batch) of a step: single images first, then longer and longer tracks."""
    for until, length, factor in ((0.12, 1, 4.0), (0.35, 4, 2.0), (0.8, 8, 1.0)):
        if fraction < until:
            return length, max(1, int(batch * factor))
    return 14, max(1, int(batch * 0.6))


def train(options: Options) -> None:
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(options, Path(folder))
        model = _start(options)
        raw = RawMasks(model)
        count = 6 if options.device == "cpu" else 64
        held = {"scenes": held_out(options.seed, count, 0.0), "textured": held_out(options.seed, count, 1.0)}
        pool.wait_for(32 if options.device == "cpu" else 300)
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {pool.total} clips", flush=True)
        _loop(options, pool, model, raw, rng, held)


def _start(options: Options) -> SAM2Base:
    if options.init is not None:
        model, _ = sam2_build.load(options.init)
    else:
        model = sam2_build.build(sam2_build.TINY)
        # The score gates the memory: a model that begins by believing everything absent never remembers anything.
        torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    return model.to(options.device)


def _optimizer(options: Options, model: SAM2Base) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.99), fused=options.device == "cuda")


def _loop(
    options: Options, pool: Pool, model: SAM2Base, raw: RawMasks, rng: np.random.Generator,
    held: dict[str, list[tuple[np.void, int, int]]],
) -> None:  # fmt: skip
    optimizer, started, step = _optimizer(options, model), time.monotonic(), 0
    next_log, next_save, next_refresh = options.log_every, options.save_every, 2.0
    losses: list[Tensor] = []
    while (elapsed := time.monotonic() - started) < 60 * options.minutes:
        fraction = elapsed / (60 * options.minutes)
        lr = options.lr * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses.append(_update(options, pool, model, raw, optimizer, rng, fraction))
        step += 1
        if elapsed > next_refresh:
            pool.refresh()
            next_refresh = elapsed + 2
        if elapsed > next_log:
            line = {"s": round(elapsed), "step": step, "length": plan(fraction, 1)[0], "clips": pool.total,
                    "loss": round(float(torch.stack(losses).mean()), 4)}  # fmt: skip
            if not math.isfinite(line["loss"]):
                raise RuntimeError(f"loss not finite at step {step}: go on with --init {options.out} and a lower --lr")
            _report(model, raw, held, options, line)
            losses, next_log = [], time.monotonic() - started + options.log_every
        if elapsed > next_save:
            sam2_build.save(options.out, model, sam2_build.TINY, {"step": step, "seconds": round(elapsed)})
            next_save = elapsed + options.save_every
    final = _report(model, raw, held, options, {"s": round(elapsed), "step": step, "clips": pool.total})
    sam2_build.save(options.out, model, sam2_build.TINY, final)


def _update(
    options: Options, pool: Pool, model: SAM2Base, raw: RawMasks, optimizer: torch.optim.AdamW,
    rng: np.random.Generator, fraction: float,
) -> Tensor:  # fmt: skip
    length, batch = plan(fraction, options.clips)
    tracks = draw_tracks(pool, rng, batch, length)
    kind = KINDS[rng.integers(len(KINDS))]
    points = draw_points(tracks.masks[:, 0], kind, float(rng.choice((0.0, 0.05, 0.12))), model.image_size)
    loss = loss_of(*roll(model, raw, tracks.frames, points), tracks)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def _report(
    model: SAM2Base, raw: RawMasks, held: dict[str, list[tuple[np.void, int, int]]], options: Options,
    line: dict[str, float],
) -> dict[str, float]:  # fmt: skip
    """Prints a line of figures and adds it to DIR/training.jsonl; keys: set/prompt/figure."""
    for name, tracks in held.items():
        for prompt, kind in (("box", (True, 0)), ("point", (False, 1))):
            figures = evaluate(model, raw, tracks, options.device, kind)
            line |= {f"{name}/{prompt}/{k}": round(v, 3) for k, v in figures.items()}
    text = json.dumps(line)
    print(text, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "training.jsonl").open("a") as file:
        file.write(text + "\n")
    return line


def options_from(args: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--init", type=Path, help="folder of an earlier run to go on from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=0, help="tracks of a step (0: 64 on a GPU, 4 on CPU)")
    parser.add_argument("--pool", type=int, default=0, help="clips kept on the device (0: 4096 on a GPU, 512 on CPU)")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--textured", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    options = Options(**vars(parser.parse_args(args)))
    gpu = options.device == "cuda"
    return replace(options, clips=options.clips or (64 if gpu else 4), pool=options.pool or (4096 if gpu else 512))


if __name__ == "__main__":
    train(options_from())
