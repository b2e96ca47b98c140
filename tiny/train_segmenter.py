"""Trains the tiny SAM 2 from nothing: `python -m tiny.train_segmenter --out DIR --minutes 8 --workers 3`.

Worker processes draw clips on CPU; everything else runs on one device. On a GPU eight minutes are enough; on CPU it
runs too, with smaller batches and far fewer steps.
The model must also learn absence: frames before an object comes and after it has left are in every batch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from models.segmenters import sam2_build
from tiny.segmenter_school.exam import Held, RawMasks, evaluate, held_out, roll
from tiny.segmenter_school.tracks import Pool, Tracks, draw_points, draw_tracks

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
    begin: float  # share of the schedule to leave out when going on from `init`
    seed: int
    log_every: float  # seconds
    save_every: float = 120.0


def loss_of(logits_TBhw: Tensor, score_TB: Tensor, tracks: Tracks) -> Tensor:
    """Focal + cross entropy + dice where the object is visible, cross entropy of the object score everywhere.

    The official focal weights (20, alpha .25) collapse to empty masks when nothing is pretrained.
    """
    masks = tracks.masks.transpose(0, 1).float()
    counted = tracks.counted.transpose(0, 1).float()
    visible = (masks.flatten(2).sum(2) > 0).float()
    x = F.interpolate(
        logits_TBhw, size=masks.shape[-2:], mode="bilinear", align_corners=False
    ).clamp(-30, 30)
    entropy = F.binary_cross_entropy_with_logits(x, masks, reduction="none")
    p = x.sigmoid()
    focal = 0.5 * entropy * (1 - p * masks - (1 - p) * (1 - masks)) ** 2
    dice = 1 - (2 * (p * masks).sum((2, 3)) + 1) / (p.sum((2, 3)) + masks.sum((2, 3)) + 1)
    shape = (10 * focal.mean((2, 3)) + entropy.mean((2, 3)) + dice) * visible * counted
    presence = F.binary_cross_entropy_with_logits(score_TB, visible, reduction="none") * counted
    return shape.sum() / (visible * counted).sum().clamp(min=1) + presence.mean()


def plan(fraction: float, batch: int) -> tuple[int, int]:
    """(length, batch) of a step: single images first, then longer and longer tracks."""
    for until, length, factor in ((0.35, 1, 4.0), (0.55, 4, 2.0), (0.85, 8, 1.0)):
        if fraction < until:
            return length, max(1, int(batch * factor))
    return 14, max(1, int(batch * 0.6))


def train(options: Options) -> None:
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    rng = np.random.default_rng(options.seed)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        pool = Pool(
            Path(folder),
            options.device,
            options.pool,
            options.workers,
            options.seed,
            options.textured,
        )
        stack.callback(pool.close)
        model = _start(options)
        raw = RawMasks(model)
        count = 6 if options.device == "cpu" else 64
        held = {
            "scenes": held_out(options.seed, count, 0.0),
            "textured": held_out(options.seed, count, 1.0),
        }
        pool.wait_for(32 if options.device == "cpu" else 300)
        print(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, {pool.total} clips",
            flush=True,
        )
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
    return torch.optim.AdamW(
        groups, lr=options.lr, betas=(0.9, 0.99), fused=options.device == "cuda"
    )


def _loop(
    options: Options,
    pool: Pool,
    model: SAM2Base,
    raw: RawMasks,
    rng: np.random.Generator,
    held: dict[str, Held],
) -> None:
    optimizer = _optimizer(options, model)
    started = time.monotonic()
    step = 0
    next_log = options.log_every
    next_save = options.save_every
    next_refresh = 2.0
    losses: list[Tensor] = []
    while (elapsed := time.monotonic() - started) < 60 * options.minutes:
        fraction = options.begin + (1 - options.begin) * elapsed / (60 * options.minutes)
        lr = (
            options.lr
            * min(1, (step + 1) / 100)
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses.append(_update(options, pool, model, raw, optimizer, rng, fraction))
        step += 1
        if elapsed > next_refresh:
            pool.refresh()
            next_refresh = elapsed + 2
        if elapsed > next_log:
            line = {
                "s": round(elapsed),
                "step": step,
                "length": plan(fraction, 1)[0],
                "clips": pool.total,
                "loss": round(float(torch.stack(losses).mean()), 4),
            }
            if not math.isfinite(line["loss"]):
                raise RuntimeError(
                    f"loss not finite at step {step}: go on with --init {options.out} and a lower --lr"
                )
            _report(model, raw, held, options, line)
            losses = []
            next_log = time.monotonic() - started + options.log_every
        if elapsed > next_save:
            sam2_build.save(
                options.out, model, sam2_build.TINY, {"step": step, "seconds": round(elapsed)}
            )
            next_save = elapsed + options.save_every
    final = _report(
        model, raw, held, options, {"s": round(elapsed), "step": step, "clips": pool.total}
    )
    sam2_build.save(options.out, model, sam2_build.TINY, final)


def _update(
    options: Options,
    pool: Pool,
    model: SAM2Base,
    raw: RawMasks,
    optimizer: torch.optim.AdamW,
    rng: np.random.Generator,
    fraction: float,
) -> Tensor:
    length, batch = plan(fraction, options.clips)
    tracks = draw_tracks(pool, rng, batch, length)
    kind = KINDS[rng.integers(len(KINDS))]
    points = draw_points(
        tracks.masks[:, 0], kind, float(rng.choice((0.0, 0.05, 0.12))), model.image_size
    )
    loss = loss_of(*roll(model, raw, tracks.frames, points), tracks)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def _report(
    model: SAM2Base,
    raw: RawMasks,
    held: dict[str, Held],
    options: Options,
    line: dict[str, float],
) -> dict[str, float]:
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
    parser.add_argument("--textured", type=float, default=0.3)
    parser.add_argument(
        "--begin", type=float, default=0.0, help="share of the schedule to leave out, with --init"
    )
    parser.add_argument(
        "--log-every", type=float, default=0, help="seconds (0: 20 on a GPU, 120 on CPU)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = Options(**vars(parser.parse_args(args)))
    gpu = options.device == "cuda"
    return replace(
        options,
        clips=options.clips or (64 if gpu else 4),
        pool=options.pool or (4096 if gpu else 512),
        log_every=options.log_every
        or (20.0 if gpu else 120.0),  # measuring takes a second on a GPU, ten on CPU
    )


if __name__ == "__main__":
    train(options_from())
