"""All full-size presets with folders of official shape, on a CPU.

    python -m benchmarks.official_shapes OUT --tool ../shared/tools/build_real_shapes.py

OUT gets the official folders (official configuration, processor, template and vocabulary; narrow,
random weights), a SAM 2 checkpoint of official shape, a data set of two videos of 480 x 854, and a
folder for each job. A job is a preset, a policy's folder and a command, with settings for a CPU and
a few short episodes only: device, workers, steps, ranks, samples, P and G, tokens of an answer.
Jobs that ended well are not run again, so a killed matrix goes on. At the end, and with --table
alone, one table of all jobs.

    --preset videoseg_o3_4b --policy qwen3_vl --job train      a part of it; each may be repeated
    --dtype bfloat16      engine and learner in bfloat16, the bound of the gap as in the preset
    --frames real         frame numbers and sizes of the preset; few: 2 or 3 frames of its sizes

"gap" is the mean |log-prob difference| of engine and learner, "engine" and "learner" the tokens of
the first prompts as both count them before a start. A policy that draws is warm-started first: the
other jobs of such a preset take that policy.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measuring import argument_parser
from configs.load import REPOSITORY
from core.masks import encode

PRESETS = (
    "revseg_7b",
    "veason_r1_7b",
    "videoseg_r1_3b",
    "videoseg_r1_7b",
    "videoseg_o3_2b",
    "videoseg_o3_4b",
)
POLICIES = ("qwen2_5_vl", "qwen3_vl")
# In this order: a policy that draws is made by its warm start.
JOBS = ("warm_start", "train", "evaluate", "segment")
FP32_GAP = 1e-4

# Frames of the data set.
FRAMES = 24
HEIGHT = 480
WIDTH = 854
SENTENCE = "the square that moves to the right"

# For a CPU, and few and short.
CPU = (
    "cluster.use_gpu=no",
    "rollout.workers=1",
    "learner.world_size=1",
    "reward.workers=1",
    "segmenter.workers=1",
    "rollout.group_size=2",
    "rollout.prompts_per_step=1",
    "rollout.max_num_seqs=4",
    "warm_start.steps=2",
    "warm_start.batch_size=1",
    "train.steps=2",
    "train.eval_every=0",
    "train.eval_samples=1",
    "evaluate.samples=1",
    "tracking.mlflow_uri=",
)
DATA = (
    "data.sets=[]",
    "data.format=mevis",
    "data.train_split=train",
    "data.eval_split=test",
    "data.holdout=0",
    "data.test_split=test",
    "difficulty.folder=",
)
SHORT = {
    "revseg": {"max_tokens_1": 24, "max_tokens_2": 16},
    "veason_r1": {"max_tokens": 24},
    "videoseg_r1": {"max_tokens": 24, "sampler_samples": 2, "sampler_rounds": 1},
    "videoseg_o3": {"max_tokens": 24},
}
FEW = {
    "revseg": {"num_frames": 3},
    "veason_r1": {"num_frames": 2},
    "videoseg_r1": {"key_frames": 2, "reference_frames": 1, "sampler_frames": 3},
    "videoseg_o3": {"temporal_frames": 3, "spatial_frames": 2, "round_frames": 2},
}


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    preset: str
    policy: str
    job: str
    dtype: str
    frames: str

    @property
    def name(self) -> str:
        return f"{self.preset}-{self.policy}-{self.dtype}-{self.frames}"

    @property
    def system(self) -> str:
        return self.preset.rpartition("_")[0]

    @property
    def draws(self) -> bool:
        return self.system == "videoseg_o3"


def build(out: Path, tool: Path | None, sam: str) -> None:
    """Make what is missing in OUT: official folders, SAM 2 and data.

    Raises:
        ValueError: something is missing and there is no tool to make it.
    """
    wanted = [(name, out / name) for name in POLICIES]
    wanted.append((sam, out / f"{sam}.pt"))
    for name, path in wanted:
        if path.exists():
            continue
        if tool is None or not tool.is_file():
            raise ValueError(f"{path}: not there; --tool names the script that makes it")
        subprocess.run([sys.executable, str(tool), name, str(path)], check=True)
    for split, videos in (("train", 2), ("test", 1)):
        if not (out / "data" / split).is_dir():
            write_split(out / "data" / split, videos)


def write_split(folder: Path, videos: int) -> None:
    """Write a split in the layout of MeViS: noise, and a square that moves to the right."""
    meta: dict[str, Any] = {}
    masks = {}
    rng = np.random.default_rng(0)
    noise_HWC = rng.integers(0, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    names = [f"{frame:05d}" for frame in range(FRAMES)]
    for number in range(videos):
        images = folder / "JPEGImages" / f"v{number}"
        images.mkdir(parents=True)
        mask_F = []
        for frame, name in enumerate(names):
            mask_HW = np.zeros((HEIGHT, WIDTH), bool)
            left = 40 + 20 * frame
            mask_HW[150 + 20 * number : 290, left : left + 140] = True
            image_HWC = noise_HWC.copy()
            image_HWC[mask_HW] = (230, 60, 40)
            Image.fromarray(image_HWC).save(images / f"{name}.jpg")
            mask_F.append(encode(mask_HW))
        masks[str(number)] = mask_F
        expressions = {"0": {"exp": SENTENCE, "anno_id": [number]}}
        meta[f"v{number}"] = {"frames": names, "expressions": expressions}
    (folder / "mask_dict.json").write_text(json.dumps(masks))
    # Last, so that a killed writer leaves no split that looks whole.
    (folder / "meta_expressions.json").write_text(json.dumps({"videos": meta}))


def settings_of(case: Case, out: Path, sam: str) -> list[str]:
    """Return the settings of a job."""
    options = dict(SHORT[case.system])
    if case.frames == "few":
        options |= FEW[case.system]
    policy = out / case.policy
    if case.draws and case.job != "warm_start":
        policy = out / "warm" / case.name
    found = [
        f"name={case.name}",
        f"runs={out / 'runs'}",
        f"data.root={out / 'data'}",
        f"policy.path={policy}",
        f"policy.dtype={case.dtype}",
        f"segmenter.path={out / sam}.pt",
        # The presets of VideoSeg-R1 propagate with XMem, which is not there.
        "segmenter.kind=sam2",
        f"warm_start.output={out / 'warm' / case.name}",
        *CPU,
        *DATA,
    ]
    if case.dtype == "float32":
        # After a cut at top_p the engine's log-probs are up to -ln top_p higher, 0.105 for
        # VideoSEG-O3, which would hide other gaps. In bfloat16 the preset keeps its own bound.
        found += [f"train.max_logprob_gap={FP32_GAP}", "rollout.top_p=1"]
    if case.job == "train":
        found.append("train.resume=never")
    return found + [f"system.options.{name}={value}" for name, value in options.items()]


def command(case: Case, out: Path, sam: str) -> list[str]:
    """Return the command line of a job."""
    words = [case.preset, *settings_of(case, out, sam)]
    if case.job == "segment":
        video = out / "data" / "test" / "JPEGImages" / "v0"
        words = [str(video), SENTENCE, *words, "--out", str(out / "segment" / case.name)]
    return [sys.executable, "-m", f"ray_jobs.{case.job}", *words]


def run(case: Case, out: Path, sam: str) -> dict[str, Any]:
    """Run a job and return its row."""
    log = out / "logs" / f"{case.name}-{case.job}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = command(case, out, sam)
    began = time.monotonic()
    with log.open("w") as file:
        print("$", *words, file=file, flush=True)
        done = subprocess.run(
            words, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    row = asdict(case) | {"rc": done.returncode, "seconds": round(time.monotonic() - began)}
    row |= measured(case, out, log.read_text())
    return row


def measured(case: Case, out: Path, text: str) -> dict[str, Any]:
    """Return tokens, failed episodes and gaps of a finished job, as far as they are known."""
    found: dict[str, Any] = {}
    # The display may break the line.
    counted = re.search(r"longest of (\d+) prompts: (\d+)\s+tokens", text)
    if counted is not None:
        # The job goes on only if both counts are equal.
        found["engine"] = found["learner"] = int(counted[2])
    if case.job == "train":
        file = out / "runs" / case.name / "metrics.jsonl"
        lines = (
            [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        )
        found["steps"] = len(lines)
        found["failed"] = sum(line["failed_episodes"] for line in lines)
        gaps = [line["logprob_gap_mean"] for line in lines if "logprob_gap_mean" in line]
        found["gap"] = max(gaps, default=None)
        largest = [line["logprob_gap_max"] for line in lines if "logprob_gap_max" in line]
        found["largest"] = max(largest, default=None)
    if case.job == "evaluate":
        file = out / "runs" / case.name / "evaluate" / "summary.json"
        if file.exists():
            found["failed"] = len(json.loads(file.read_text()).get("missing", []))
    if case.job == "segment":
        # A failed episode ends this job.
        answer = out / "segment" / case.name / "answer.json"
        found["failed"] = 0 if answer.exists() else 1
    return found


def cases(given: argparse.Namespace) -> Iterator[Case]:
    for preset in given.preset or PRESETS:
        for policy in given.policy or POLICIES:
            for job in given.job or JOBS:
                yield Case(preset, policy, job, given.dtype, given.frames)


def table(rows: list[dict[str, Any]]) -> str:
    """Return all rows as Markdown."""
    names = ("preset", "policy", "dtype", "frames", "job")
    figures = ("rc", "failed", "gap", "largest", "engine", "learner", "seconds")
    lines = ["| " + " | ".join((*names, *figures)) + " |", "|---" * 12 + "|"]
    for row in rows:
        cells = [str(row[name]) for name in names]
        for name in figures:
            value = row.get(name)
            text = (
                "" if value is None else f"{value:.3g}" if isinstance(value, float) else f"{value}"
            )
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--tool", type=Path, help="the script that makes folders of official shape")
    parser.add_argument("--sam", default="sam2.1_hiera_tiny", help="or sam2_hiera_tiny")
    parser.add_argument("--preset", action="append", choices=PRESETS)
    parser.add_argument("--policy", action="append", choices=POLICIES)
    parser.add_argument("--job", action="append", choices=JOBS)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--frames", default="few", choices=("few", "real"))
    parser.add_argument("--again", action="store_true", help="run finished jobs too")
    parser.add_argument("--table", action="store_true", help="only show the table")
    given = parser.parse_args()
    out = given.out.resolve()
    rows_folder = out / "rows"
    if not given.table:
        rows_folder.mkdir(parents=True, exist_ok=True)
        build(out, given.tool, given.sam)
        for case in cases(given):
            file = rows_folder / f"{case.name}-{case.job}.json"
            if file.exists() and not given.again and json.loads(file.read_text())["rc"] == 0:
                continue
            row = run(case, out, given.sam)
            file.write_text(json.dumps(row))
            print(json.dumps(row), flush=True)
    print(table([json.loads(file.read_text()) for file in sorted(rows_folder.glob("*.json"))]))


if __name__ == "__main__":
    main()
