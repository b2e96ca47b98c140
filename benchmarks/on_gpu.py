"""Everything to measure on a borrowed GPU, in one go of at most ten minutes.

    python -m benchmarks.on_gpu                  # all steps; writes benchmarks/RESULTS.md
    python -m benchmarks.on_gpu --step vision    # one of them, printed
    python -m benchmarks.on_gpu --tiny --out F   # tiny shapes, also on a CPU: does the script work?

Each step is a process of its own with a limit of time, so that one that fails or hangs leaves the
others their turn. Random weights of official shapes; no download. Not yet run on a GPU.
"""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import learner, rewards
from benchmarks.measuring import argument_parser
from core.types import MaskPrompt
from models.policy.pixels import Pixels
from models.policy.policy import Policy
from models.segmenters import sam2_build
from models.segmenters.sam2 import Sam2Segmenter
from models.segmenters.sam2_shape import OFFICIAL, TINY
from systems.videoseg_r1 import VideoSegR1

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RESULTS = Path(__file__).parent / "RESULTS.md"
PACKAGES = ("torch", "transformers", "sam2", "numpy")
# Seconds; nine and a half minutes together.
LIMITS = {
    "learner 3b": 150,
    "learner 7b": 180,
    "vision": 60,
    "tests": 120,
    "rewards": 30,
    "sam2": 30,
}


def commands(tiny: bool) -> dict[str, list[str]]:
    """Return the command of each step, after `python -m`."""
    own = ["benchmarks.on_gpu", "--step"]
    of_learner = ["benchmarks.learner", "--quick", "--repeats", "2"]
    found = {
        "learner 3b": [*of_learner, "--model", "3b", "--scale", "2"],
        "learner 7b": [*of_learner, "--model", "7b", "--scale", "2"],
        "vision": [*own, "vision"],
        "tests": ["pytest", "-q", "tests/models/policy/test_policy_on_gpu.py"],
        "rewards": [*own, "rewards"],
        "sam2": [*own, "sam2"],
    }
    if tiny:
        found["learner 3b"] = [*of_learner, "--scale", "64"]
        del found["learner 7b"]
        for name in ("vision", "rewards", "sam2"):
            found[name].append("--tiny")
    return found


# --- steps of this script


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds of the second call; the first one warms up."""
    work()
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def launches_of(work: Callable[[], object]) -> int:
    """Kernels launched; on a CPU operations called."""
    activities = [ProfilerActivity.CPU]
    if DEVICE == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        work()
        wait()
    wanted = "cudaLaunchKernel" if DEVICE == "cuda" else "aten::"
    return sum(event.count for event in found.key_averages() if event.key.startswith(wanted))


def vision(tiny: bool) -> list[str]:
    """The vision tower of a 3B policy on 16 frames of 448 x 448, forward alone."""
    model = "small" if tiny else "3b"
    side = 112 if tiny else 448
    dtype = "bfloat16" if DEVICE == "cuda" else "float32"
    with tempfile.TemporaryDirectory() as folder:
        learner.build_model(Path(folder), model)
        policy = Policy(folder, allowed_ids=range(learner.WORDS), device=DEVICE, dtype=dtype)
        rng = np.random.default_rng(0)
        images = list(rng.integers(0, 256, (16, side, side, 3), dtype=np.uint8))
        patches, grid_U3 = Pixels(folder)(images)
    patches = patches.to(DEVICE)
    grid_U3 = grid_U3.to(DEVICE)

    def forward() -> None:
        with torch.no_grad():
            policy.vlm.model.get_image_features(patches, grid_U3, return_dict=True)

    launches = launches_of(forward)
    seconds = seconds_of(forward)
    return [
        "| frames | side | launches | s |",
        "|---|---|---|---|",
        f"| {len(images)} | {side} | {launches} | {seconds:.3f} |",
    ]


def rewards_on_device(tiny: bool) -> list[str]:
    """VideoSeg-R1's reward of groups of 8 on the device, and whether it is the CPU's."""
    cases = [rewards.make_case(str(number), 1 + number % 5) for number in range(2 if tiny else 20)]
    expected = rewards.ours(cases)
    torch.set_default_device(DEVICE)
    try:
        found = rewards.ours(cases)
        seconds = seconds_of(lambda: rewards.ours(cases))
    finally:
        torch.set_default_device(None)
    apart = np.abs(np.subtract(found, expected)).max()
    system = VideoSegR1.name
    return [
        "| system | groups | ms a group | largest difference to the CPU |",
        "|---|---|---|---|",
        f"| {system} | {len(cases)} | {1000 * seconds / len(cases):.1f} | {apart:.1e} |",
    ]


def sam2(tiny: bool) -> list[str]:
    """SAM 2.1 large, random, on 20 frames of 480 x 854: two boxes tracked both ways."""
    shape = TINY
    if not tiny:
        newest = [each for each in OFFICIAL.values() if each.version == "2.1"]
        shape = max(newest, key=lambda each: each.embed_dim)
    frames = np.random.default_rng(0).integers(0, 256, (4 if tiny else 20, 480, 854, 3), np.uint8)
    prompts = [MaskPrompt(1, (100.0, 100.0, 300.0, 300.0)), MaskPrompt(2, (50.0, 50.0, 90.0, 90.0))]
    model = sam2_build.build(shape)

    def track() -> None:
        # A fresh cache: the image encoder is part of the time.
        segmenter = Sam2Segmenter(model, shape, DEVICE)
        for _ in segmenter.track(frames, prompts):
            pass

    seconds = seconds_of(track)
    return [
        "| frames | prompts | s | frames/s |",
        "|---|---|---|---|",
        f"| {len(frames)} | {len(prompts)} | {seconds:.2f} | {len(frames) / seconds:.1f} |",
    ]


STEPS: dict[str, Callable[[bool], list[str]]] = {
    "vision": vision,
    "rewards": rewards_on_device,
    "sam2": sam2,
}


# --- all of them


def heading() -> list[str]:
    """Date, machine and versions."""
    machine = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or "CPU"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return ["# Measured in one go (`benchmarks/on_gpu.py`)", "", f"{now}, {machine}; {versions}."]


def measured(name: str, command: Sequence[str]) -> list[str]:
    """Run a step; return its part of the page, whatever became of it."""
    lines = ["", f"## {name}", "", f"`python -m {' '.join(command)}`", ""]
    began = time.monotonic()
    try:
        run = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            timeout=LIMITS[name],
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [*lines, f"Stopped after {LIMITS[name]} s."]
    if run.returncode:
        tail = run.stderr.strip().splitlines()[-5:] or run.stdout.strip().splitlines()[-5:]
        return [*lines, f"Failed with exit code {run.returncode}:", "", "```", *tail, "```"]
    shown = [line for line in run.stdout.splitlines() if line.startswith("|") or " in " in line]
    return [*lines, *shown, "", f"{time.monotonic() - began:.0f} s."]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--step", choices=STEPS, help="this step alone, printed")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the page to write")
    options = parser.parse_args()
    if options.step:
        print("\n".join(STEPS[options.step](options.tiny)))
        return
    page = heading()
    for name, command in commands(options.tiny).items():
        page += measured(name, command)
        # After each step: what is measured stays, whatever comes.
        options.out.write_text("\n".join(page) + "\n")
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main()
