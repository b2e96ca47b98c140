"""The training loop of `tiny.pretrain` and `tiny.teach`: schedule, steps, log, folder.

A training lasts a given time, not a given number of steps. On a GPU the clock is the wall's. On a
CPU it is the time that the main thread computed, so that sharing the machine costs nothing.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

clock: Callable[[], float] = time.monotonic if torch.cuda.is_available() else time.thread_time
STARTED = clock()

Parts = dict[str, torch.Tensor]


def training_parser(description: str | None, minutes: float, lr: float) -> argparse.ArgumentParser:
    """Return a parser with the common options of both commands."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, default=minutes, help="on a CPU: of its time")
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp32"),
        default="bf16",
        help="of matrix products; fp32 means TF32 on a GPU",
    )
    parser.add_argument("--log_seconds", type=float, default=20.0)
    return parser


class Training:
    """One training: a loss of parts, an optimizer and a cosine schedule.

    Attributes:
        options: The command line's lr, warm_steps, precision, log_seconds and save_seconds.
        optimizer: Optimizer of `parameters`.
        parameters: All trained parameters; their gradients are clipped together.
        lowest: Share of the learning rate at the end.
        device: Device of the parameters.
        step: Steps taken.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[torch.nn.Parameter],
        lowest: float,
        device: torch.device,
    ) -> None:
        self.options = options
        self.optimizer = optimizer
        self.parameters = parameters
        self.lowest = lowest
        self.device = device
        self.step = 0

    def run(
        self,
        end: float,
        losses: Callable[[float], Parts],
        save: Callable[[], None],
        figures: Callable[[int, float], dict[str, float]],
    ) -> None:
        """Take steps until the clock shows `end`; log and save from time to time, but not at the
        end.

        Args:
            losses: Returns the parts of the next batch's loss, for the share of time that has
                passed. Parts with a name that begins with "_" are logged only.
            save: Writes what there is so far.
            figures: Returns more to log, for the steps and the seconds since the last line.
        """
        begin = clock()
        now = begin
        saved = begin
        log_of_means = _Means(begin)
        while now < end:
            share = (now - begin) / (end - begin)
            rate = self._rate(share)
            log_of_means.add(self._step(rate, losses, share))
            now = clock()
            if now - log_of_means.since > self.options.log_seconds:
                more = figures(log_of_means.count, now - log_of_means.since)
                log({"step": self.step, "share": share, "lr": rate, **more, **log_of_means.take()})
                log_of_means = _Means(now)
            if now - saved > self.options.save_seconds:
                saved = now
                save()

    def _rate(self, share: float) -> float:
        """Return the learning rate: linear warm-up by steps, cosine by time."""
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        factor = self.lowest + (1 - self.lowest) * cosine
        warm_up = min(1.0, (self.step + 1) / self.options.warm_steps)
        return float(self.options.lr * warm_up * factor)

    def _step(self, rate: float, losses: Callable[[float], Parts], share: float) -> Parts:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        bf16 = self.options.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            parts = losses(share)
        counted = [part for name, part in parts.items() if name[0] != "_"]
        loss = torch.stack(counted).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        # On a GPU each look at the loss stalls the device.
        if self.device.type == "cpu" or self.step % 50 == 0:
            _require_finite(loss, self.step)
        self.optimizer.step()
        self.step += 1
        return {**parts, "_norm": norm}


class _Means:
    """Means of logged parts since a time."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
        self.sums: Parts = {}

    def add(self, parts: Parts) -> None:
        self.count += 1
        for name, part in parts.items():
            self.sums[name] = self.sums.get(name, 0) + part.detach()

    def take(self) -> dict[str, float]:
        return {name: float(total) / self.count for name, total in self.sums.items()}


def _require_finite(loss: torch.Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise ValueError(
            f"loss is {loss.item()} at step {step}; lower --lr or use --precision fp32"
        )


def save_policy(out: Path, init: Path, hf: Any) -> None:
    """Write the policy as a bf16 Hugging Face folder, with the other files of `init`.

    Each file appears whole or not at all, so the folder of an interrupted training is usable.
    Folders inside `init` are left out: a mask head there belongs to the weights it was trained
    with.
    """
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in init.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copyfile(file, part / file.name)
    copy.deepcopy(hf).to("cpu", torch.bfloat16).save_pretrained(part)

    out.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        # safetensors writes files that only their owner may read.
        file.chmod(0o644)
        file.replace(out / file.name)
    part.rmdir()


def log(line: dict[str, Any]) -> None:
    """Print a line of figures, with the seconds since the start."""
    words = []
    for name, value in {"t": clock() - STARTED, **line}.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        words.append(f"{name}={text}")
    print(" ".join(words), flush=True)
