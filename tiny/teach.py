"""Teach a tiny policy to list objects and to sample frames: VideoSeg-R1's warm start, in an hour.

    python -m tiny.school.extend tiny/weights/revseg START
    python -m tiny.teach videoseg_r1_tiny --init START --out FOLDER --minutes 50

`ray_jobs.warm_start` does the same for any system and any data set. This is several times as fast:
endless synthetic scenes instead of a data set, the system's own demonstrations, all questions about
one frame in one row, softened coordinates. It runs as one process on one core, without Ray, vLLM or
DeepSpeed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import cv2
import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from configs.load import load
from models.dialogue import load_dialogue
from systems.videoseg_r1 import VideoSegR1
from tiny.school import training
from tiny.school.batched import Batched
from tiny.school.object_exam import examine
from tiny.school.object_lessons import Lessons
from tiny.school.object_losses import Marker, ObjectTutor
from tiny.school.rows import Rows, pack

# Share of the learning rate at the end.
LOWEST = 0.02


def main() -> None:
    parser = training.training_parser(__doc__, minutes=50.0, lr=1e-3)
    parser.add_argument("preset")
    parser.add_argument(
        "--init", required=True, help="Hugging Face folder with the tokens of tiny.school.extend"
    )
    parser.add_argument("--rows", type=int, default=8, help="rows in a step")
    parser.add_argument("--warm_steps", type=int, default=100)
    parser.add_argument("--freeze_vision", action="store_true")
    parser.add_argument("--exam", type=int, default=40, help="scenes of an examination")
    parser.add_argument("--save_seconds", type=float, default=300.0)
    teach(parser.parse_args())


def teach(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    out = Path(options.out)
    init = Path(options.init)
    cfg = load([options.preset, f"policy.path={options.init}"])
    system = VideoSegR1.make(cfg.system.options)
    dialogue = load_dialogue(init)
    marker = Marker(dialogue)

    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(init, dtype=torch.float32)
    hf.model.visual.requires_grad_(not options.freeze_vision)
    net = Batched(hf)
    tutor = ObjectTutor(net, marker)
    trained = [p for p in hf.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.98), weight_decay=0.0)
    lessons = Lessons(system, np.random.default_rng([options.seed, 1]))
    batches = batches_of(lessons, marker, options.rows)

    def losses(share: float) -> dict[str, torch.Tensor]:
        rows, images = next(batches)
        return tutor.losses(rows, images)

    def save() -> None:
        training.save_policy(out, init, hf)
        training.log(examine(system, net, dialogue, options.exam))

    run = training.Training(options, optimizer, trained, LOWEST, torch.device("cpu"))
    end = training.clock() + 60 * options.minutes
    run.run(end, losses, save, lambda steps, seconds: {"s_per_step": seconds / steps})
    training.save_policy(out, init, hf)
    for temperature in (0.0, 1.0):
        marks = examine(system, net, dialogue, 4 * options.exam, temperature)
        training.log({"T": temperature, **marks})


def batches_of(
    lessons: Lessons, marker: Marker, rows: int
) -> Iterator[tuple[Rows, list[np.ndarray]]]:
    """Yield rows of lessons and the images of all of them, in order."""
    while True:
        taken = [lessons.take() for _ in range(rows)]
        packed = pack([marker(lesson.dialogues) for lesson in taken], marker.dialogue.image_id)
        images: list[np.ndarray] = []
        for lesson in taken:
            images += lesson.images
        yield packed, images


if __name__ == "__main__":
    main()
    sys.stdout.flush()
