"""Teaches a tiny policy to list objects and to sample frames: the warm start of `videoseg_r1_tiny`, in about an hour.

    python -m tiny.school.extend tiny/weights/revseg START
    python -m tiny.teach videoseg_r1_tiny --init START --out FOLDER --minutes 50

Endless synthetic scenes instead of a data set, the system's own demonstrations (`systems/videoseg_r1/__init__.py`), all
questions about one frame in one row, coordinates softened: several times as fast as `ray_jobs.warm_start`, which does
the same for any system and any data set. One process, one core; neither ray nor vLLM nor DeepSpeed.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import cv2
import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from configs.load import load
from core.types import View
from models.dialogue import Dialogue, load_dialogue
from systems.videoseg_r1 import VideoSegR1
from tiny.pretrain import log, require_finite
from tiny.school.batched import Batched
from tiny.school.object_lessons import Lesson, Lessons, shrunk
from tiny.school.rows import Dialogue1, Rows, pack
from tiny.school.speaker import Speaker
from tiny.world.scene import SIDE, random_scene

SIGMA = 0.8  # pixels by which coordinates are softened
# weights of an answer's tokens
COMMA = 0.2
THOUGHT = 3.0
REST = 1.0
EXAM_SEED = 990_117  # no lesson's


class Marker:
    """Tokenises lessons and says what each answer token weighs."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        one = lambda text: dialogue.text(text)[0]
        self.value_of = {one(str(i)): i for i in range(SIDE + 1)}
        self.numbers = list(self.value_of)
        self.comma = one(",")
        self.thought_ends = one("</think>")
        self.answer = one("<answer>")

    def __call__(self, lesson: Lesson) -> tuple[list[Dialogue1], list[tuple[int, int]]]:
        views = [piece for piece in lesson[0][0] if isinstance(piece, View)]
        grids = [(v.height // self.dialogue.cell, v.width // self.dialogue.cell) for v in views]
        return [self._one(content, answer) for content, answer in lesson], grids

    def _one(self, content: list[str | View], answer: str) -> Dialogue1:
        prompt = self.dialogue.user(content, first=True, expanded=True)
        ids = self.dialogue.completion(answer)
        ends = ids.index(self.thought_ends) if self.thought_ends in ids else 0
        weights = [
            THOUGHT if 0 < i < ends else COMMA if token == self.comma else REST
            for i, token in enumerate(ids)
        ]
        opens = ids.index(self.answer) if self.answer in ids else len(ids)
        values = [self.value_of.get(token, -1) if i > opens else -1 for i, token in enumerate(ids)]
        return Dialogue1(prompt, ids, weights, values)


@dataclass
class Tutor:
    """The policy under instruction: images and rows in, one loss out."""

    net: Batched
    marker: Marker

    def __post_init__(self) -> None:
        values = torch.arange(SIDE + 1).float()
        soft_VV = torch.exp(-0.5 * ((values[:, None] - values[None]) / SIGMA) ** 2)
        self.soft_VV = soft_VV / soft_VV.sum(1, keepdim=True)
        self.numbers = torch.tensor(self.marker.numbers)

    def losses(self, rows: Rows, images: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """The sum of weighted token losses over ten times the number of dialogues, and figures to log."""
        x = self.net.embed(rows.ids_BT, self._see(images))
        hidden_BTD, _, _ = self.net.read(x, rows.positions_BT3, seen_BTT=rows.seen())
        row, at = (rows.weight_BT > 0).nonzero(as_tuple=True)
        logp_NV = self.net.logits(hidden_BTD[row, at - 1]).log_softmax(-1)
        hard_N = -logp_NV.gather(-1, rows.ids_BT[row, at][:, None])[:, 0]
        value_N = rows.value_BT[row, at]
        weight_N = rows.weight_BT[row, at]
        soft_N = -(self.soft_VV[value_N.clamp(min=0)] * logp_NV[:, self.numbers]).sum(-1)
        loss_N = torch.where(value_N >= 0, soft_N, hard_N)
        dialogues = int(rows.branch_BT.max(1).values.sum())
        mean = lambda chosen_N: loss_N.detach()[chosen_N].sum() / chosen_N.sum().clamp(min=1)
        return {
            "loss": (loss_N * weight_N).sum() / dialogues / 10,
            "_thought": mean(weight_N == THOUGHT),
            "_coordinate": mean(value_N >= 0),
            "_rest": mean((weight_N == REST) & (value_N < 0)),
        }

    def _see(self, images: list[np.ndarray]) -> torch.Tensor:
        """Image tokens in order; the tower runs once for each size."""
        parts: list[torch.Tensor] = [torch.empty(0)] * len(images)
        for side in {image.shape[0] for image in images}:
            which = [i for i, image in enumerate(images) if image.shape[0] == side]
            seen = self.net.see(torch.from_numpy(np.stack([images[i] for i in which])))
            for i, part in zip(which, seen, strict=True):
                parts[i] = part
        return torch.cat(parts)


def batches(lessons: Lessons, marker: Marker, rows: int) -> Iterator[tuple[Rows, list[np.ndarray]]]:
    while True:
        taken = [lessons.take() for _ in range(rows)]
        packed = pack([marker(lesson) for lesson, _ in taken], marker.dialogue.image_id)
        yield packed, [image for _, images in taken for image in images]


def teach(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    cfg = load([options.preset, f"policy.path={options.init}"])
    system = VideoSegR1.make(cfg.system.options)
    marker = Marker(load_dialogue(options.init))
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(options.init, dtype=torch.float32)
    hf.model.visual.requires_grad_(not options.freeze_vision)
    tutor = Tutor(Batched(hf), marker)
    optimizer = torch.optim.AdamW(
        [p for p in hf.parameters() if p.requires_grad], betas=(0.9, 0.98), weight_decay=0.0
    )
    source = batches(
        Lessons(system, np.random.default_rng([options.seed, 1])), marker, options.rows
    )
    shown = saved = time.monotonic()
    begin = (
        time.process_time()
    )  # a machine that others use too gives what it can: the schedule follows the work
    step = 0
    sums = dict[str, float]()
    while (share := (time.process_time() - begin) / (60 * options.minutes)) < 1:
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, (step + 1) / options.warm_steps) * cosine
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            parts = tutor.losses(*next(source))
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        parts["_norm"] = torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        require_finite(parts["loss"], step)
        optimizer.step()
        step += 1
        for name, part in parts.items():
            sums[name] = sums.get(name, 0.0) + float(part.detach())
        sums["_steps"] = sums.get("_steps", 0.0) + 1
        if (now := time.monotonic()) - shown > options.log_seconds:
            count = sums.pop("_steps")
            log(
                {"step": step, "share": share, "s_per_step": (now - shown) / count}
                | {name: total / count for name, total in sums.items()}
            )
            shown = now
            sums = {}
        if now - saved > options.save_seconds:
            saved = now
            save(Path(options.out), Path(options.init), hf)
            log(examine(system, tutor.net, marker.dialogue, options.exam))
    save(Path(options.out), Path(options.init), hf)
    for temperature in (0.0, 1.0):
        log(
            {"T": temperature}
            | examine(system, tutor.net, marker.dialogue, 4 * options.exam, temperature)
        )


def save(out: Path, init: Path, hf: Any) -> None:
    """A bf16 folder; each file appears whole or not at all."""
    part = out.with_name(f".{out.name}.part")
    copy.deepcopy(hf).to(torch.bfloat16).save_pretrained(part)
    for file in init.iterdir():
        if file.suffix != ".safetensors" and not (part / file.name).exists():
            (part / file.name).write_bytes(file.read_bytes())
    out.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner may read
        file.replace(out / file.name)
    part.rmdir()


def examine(
    system: VideoSegR1, net: Batched, dialogue: Dialogue, count: int, temperature: float = 0.0
) -> dict[str, float]:
    """Mean reward and parts on held-out scenes with the target frame given, and how often the sampler finds one that
    shows the target ("sees"; of "best": the target's largest size)."""
    rng = np.random.default_rng(EXAM_SEED)
    marks = list[dict[str, float]]()
    lessons = Lessons(system, rng)
    for _ in range(count):
        made = random_scene(rng)
        sample = lessons.sample(made, lessons.query(made))
        speaker = Speaker(net, dialogue, partial(shrunk, made), temperature)
        episode = asyncio.run(system.play(system.shown(sample, rng), speaker))
        reward = system.score(sample, [episode])[0]
        mark = {
            "reward": reward.total,
            **reward.parts,
            "readable": float(episode.answer.facts["readable"]),
        }
        mark["tokens"] = float(episode.answer.reasoning_tokens or 0)
        if sample.targets:
            own = VideoSegR1(system.options)  # without the choices that are kept
            frame = asyncio.run(own.play(sample.bare, speaker)).answer.keyframe
            sizes_F = lessons.areas(made, sample)
            mark |= {
                "sees": float(sizes_F[frame] > 0),
                "best": float(sizes_F[frame] / sizes_F.max()),
            }
        marks.append(mark)
    names = dict.fromkeys(name for mark in marks for name in mark)
    return {name: float(np.mean([mark[name] for mark in marks if name in mark])) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset")
    parser.add_argument(
        "--init", required=True, help="Hugging Face folder with the tokens of tiny.school.extend"
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=50.0, help="of the processor")
    parser.add_argument("--rows", type=int, default=8, help="rows in a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warm_steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--freeze_vision", action="store_true")
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), default="bf16", help="of matrix products"
    )
    parser.add_argument("--exam", type=int, default=40, help="scenes of an examination")
    parser.add_argument("--save_seconds", type=float, default=300.0)
    parser.add_argument("--log_seconds", type=float, default=20.0)
    teach(parser.parse_args())


if __name__ == "__main__":
    main()
    sys.stdout.flush()
