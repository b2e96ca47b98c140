"""Train the tiny SAM 2 from nothing.

    python -m tiny.train_segmenter --out DIR --minutes 8 --workers 3

Worker processes make clips on the CPU; everything else runs on one device. On a GPU eight minutes
are enough. A CPU takes smaller batches and far fewer steps. The model must also learn absence:
frames before an object comes and after it has left are in every batch.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from models.segmenters import sam2_build
from models.segmenters.sam2_shape import TINY
from tiny.segmenter_school.exam import RawMasks, evaluate, held_out, track_batch
from tiny.segmenter_school.tracks import (
    ClipStore,
    PromptKind,
    Tracks,
    random_prompts,
    random_tracks,
)

BOX = PromptKind(box=True, points=0)
POINT = PromptKind(box=False, points=1)
# Prompts of training steps, equally likely. Points off the object count as points.
KINDS = (
    BOX,
    BOX,
    BOX,
    PromptKind(box=True, points=1),
    PromptKind(box=True, points=2),
    POINT,
    PromptKind(box=False, points=2),
    PromptKind(box=False, points=3),
)
JITTERS = (0.0, 0.05, 0.12)
# Until this share of the schedule: frames of a track, and factor of the batch.
STAGES = (
    (0.35, 1, 4.0),
    (0.55, 4, 2.0),
    (0.85, 8, 1.0),
)


@dataclass(frozen=True)
class Options:
    """The command line.

    Attributes:
        clips: Tracks of a step when they are 8 frames long.
        pool: Clips kept on the device.
        textured: Share of textured clips.
        begin: Share of the schedule to leave out when going on from `init`.
        log_every: Seconds between reports.
        save_every: Seconds between saved models.
    """

    out: Path
    minutes: float
    workers: int
    init: Path | None
    device: str
    clips: int
    pool: int
    lr: float
    textured: float
    begin: float
    seed: int
    log_every: float
    save_every: float = 120.0


def track_loss(logits_TBhw: Tensor, score_TB: Tensor, tracks: Tracks) -> Tensor:
    """Return the loss of masks where the object is visible, and of its score everywhere.

    The mask loss is focal + cross entropy + dice. SAM 2's own focal weights (20, alpha .25)
    collapse to empty masks when nothing is pretrained.
    """
    masks = tracks.masks.transpose(0, 1).float()
    counted = tracks.counted.transpose(0, 1).float()
    visible = (masks.flatten(2).sum(2) > 0).float()
    x = F.interpolate(logits_TBhw, size=masks.shape[-2:], mode="bilinear", align_corners=False)
    x = x.clamp(-30, 30)
    entropy = F.binary_cross_entropy_with_logits(x, masks, reduction="none")
    p = x.sigmoid()
    focal = 0.5 * entropy * (1 - p * masks - (1 - p) * (1 - masks)) ** 2
    overlap = 2 * (p * masks).sum((2, 3)) + 1
    total = p.sum((2, 3)) + masks.sum((2, 3)) + 1
    dice = 1 - overlap / total
    shape = 10 * focal.mean((2, 3)) + entropy.mean((2, 3)) + dice
    shape = shape * visible * counted
    presence = F.binary_cross_entropy_with_logits(score_TB, visible, reduction="none") * counted
    return shape.sum() / (visible * counted).sum().clamp(min=1) + presence.mean()


def step_size(fraction: float, batch: int) -> tuple[int, int]:
    """Return (length, batch) of a step: single images first, then longer and longer tracks."""
    for until, length, factor in STAGES:
        if fraction < until:
            return length, max(1, int(batch * factor))
    return 14, max(1, int(batch * 0.6))


def train(options: Options) -> None:
    """Train for the given time; save the model and its figures."""
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    with tempfile.TemporaryDirectory() as folder:
        store = ClipStore(
            Path(folder),
            options.device,
            options.pool,
            options.workers,
            options.seed,
            options.textured,
        )
        with closing(store):
            training = SegmenterTraining(options, store)
            store.wait_for(32 if options.device == "cpu" else 300)
            size = sum(parameter.numel() for parameter in training.model.parameters())
            print(f"{size:,} parameters, {store.total} clips", flush=True)
            training.run()


class SegmenterTraining:
    """A SAM 2 in training, its optimizer and its held-out clips."""

    def __init__(self, options: Options, store: ClipStore) -> None:
        self.options = options
        self.store = store
        self.rng = np.random.default_rng(options.seed)
        self.model = first_model(options)
        self.raw = RawMasks(self.model)
        self.optimizer = _optimizer(options, self.model)
        count = 6 if options.device == "cpu" else 64
        self.held = {
            "scenes": held_out(options.seed, count, 0.0),
            "textured": held_out(options.seed, count, 1.0),
        }

    def run(self) -> None:
        """Take steps until the time is over, with reports and saved models on the way."""
        options = self.options
        seconds = 60 * options.minutes
        started = time.monotonic()
        step = 0
        next_refresh = 2.0
        next_log = options.log_every
        next_save = options.save_every
        losses: list[Tensor] = []
        elapsed = 0.0
        while elapsed < seconds:
            fraction = options.begin + (1 - options.begin) * elapsed / seconds
            self._set_rate(step, fraction)
            losses.append(self.update(fraction))
            step += 1
            if elapsed > next_refresh:
                self.store.refresh()
                next_refresh = elapsed + 2
            if elapsed > next_log:
                loss = round(float(torch.stack(losses).mean()), 4)
                if not math.isfinite(loss):
                    raise RuntimeError(
                        f"loss not finite at step {step}: go on with --init {options.out} "
                        "and a lower --lr"
                    )
                length, _ = step_size(fraction, 1)
                about = {"s": round(elapsed), "step": step, "length": length}
                self._report({**about, "clips": self.store.total, "loss": loss})
                losses = []
                next_log = time.monotonic() - started + options.log_every
            if elapsed > next_save:
                notes = {"step": step, "seconds": round(elapsed)}
                sam2_build.save(options.out, self.model, TINY, notes)
                next_save = elapsed + options.save_every
            elapsed = time.monotonic() - started

        final = self._report({"s": round(elapsed), "step": step, "clips": self.store.total})
        sam2_build.save(options.out, self.model, TINY, final)

    def _set_rate(self, step: int, fraction: float) -> None:
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction))
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * min(1, (step + 1) / 100) * cosine

    def update(self, fraction: float) -> Tensor:
        """Take one optimizer step; return its loss."""
        length, batch = step_size(fraction, self.options.clips)
        tracks = random_tracks(self.store, self.rng, batch, length)
        kind = KINDS[self.rng.integers(len(KINDS))]
        jitter = float(self.rng.choice(JITTERS))
        prompts = random_prompts(tracks.masks[:, 0], kind, jitter, self.model.image_size)
        logits, scores = track_batch(self.model, self.raw, tracks.frames, prompts)
        loss = track_loss(logits, scores, tracks)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()

    def _report(self, line: dict[str, float]) -> dict[str, float]:
        """Print a line of figures and append it to training.jsonl; keys: set/prompt/figure."""
        for name, held in self.held.items():
            for prompt, kind in (("box", BOX), ("point", POINT)):
                figures = evaluate(self.model, self.raw, held, self.options.device, kind)
                for figure, value in figures.items():
                    line[f"{name}/{prompt}/{figure}"] = round(value, 3)
        text = json.dumps(line)
        print(text, flush=True)
        self.options.out.mkdir(parents=True, exist_ok=True)
        with (self.options.out / "training.jsonl").open("a") as file:
            file.write(text + "\n")
        return line


def first_model(options: Options) -> SAM2Base:
    """Return the model to start from: that of `init`, or a random one."""
    if options.init is not None:
        model, _ = sam2_build.load(options.init)
    else:
        model = sam2_build.build(TINY)
        # The score gates the memory: a model that begins by believing everything absent never
        # remembers anything.
        torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    return model.to(options.device)


def _optimizer(options: Options, model: SAM2Base) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    fused = options.device == "cuda"
    return torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.99), fused=fused)


def options_from(args: list[str] | None = None) -> Options:
    """Read the command line; fill in what depends on the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--init", type=Path, help="folder of an earlier run to go on from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--clips", type=int, default=0, help="tracks of a step (0: 64 on a GPU, 4 on CPU)"
    )
    parser.add_argument(
        "--pool",
        type=int,
        default=0,
        help="clips kept on the device (0: 4096 on a GPU, 512 on CPU)",
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--textured", type=float, default=0.3, help="share of textured clips")
    parser.add_argument(
        "--begin", type=float, default=0.0, help="share of the schedule to leave out, with --init"
    )
    parser.add_argument(
        "--log-every", type=float, default=0, help="seconds (0: 20 on a GPU, 120 on CPU)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = Options(**vars(parser.parse_args(args)))

    # Measuring takes a second on a GPU, ten on a CPU, so a CPU logs rarely.
    clips, pool, log_every = (64, 4096, 20.0) if options.device == "cuda" else (4, 512, 120.0)
    return replace(
        options,
        clips=options.clips or clips,
        pool=options.pool or pool,
        log_every=options.log_every or log_every,
    )


if __name__ == "__main__":
    train(options_from())
