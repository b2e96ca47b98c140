"""SAM 2 on a CPU: linear layers by oneDNN against PyTorch's own, which ask MKL.

    python -m benchmarks.sam2_linear [PRESET] [key=value ...] [--rounds 4] [--videos 16]

The segmenter of a preset tracks two boxes through each of some videos; "equal" says whether all
masks are the same. Then the encoder of an official SAM 2.1 (small, random weights) takes one frame;
"equal" is the largest difference of its features relative to the largest feature. Both ways take
turns in one run, on one thread, wall seconds. Which is faster depends on the maker of the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from sam2.build_sam import build_sam2
from torch import Tensor, nn

from actors.segmenter import Following, VideoMasks, follow, load_segmenter
from benchmarks.measuring import argument_parser, spread
from configs.load import load as load_config
from configs.load import validate
from core.types import MaskPrompt, Video
from data.load import load_samples
from models.segmenters.base import Segmenter
from models.segmenters.onednn import OneDnnLinear, use_onednn
from models.segmenters.sam2 import Sam2Segmenter
from models.segmenters.sam2_track import encode
from ray_jobs.driver.run import prepare_data

# Corners of the boxes to track, as shares of width and height.
BOXES = ((0.2, 0.2, 0.6, 0.6), (0.4, 0.4, 0.8, 0.8))
# Videos that are tracked in one batch.
TOGETHER = 4
OFFICIAL = "configs/sam2.1/sam2.1_hiera_s.yaml"
OFFICIAL_SIDE = 1024

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds of some work, and what it returned."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def use_plain(model: nn.Module) -> None:
    """Take `use_onednn` back."""
    for module in model.modules():
        if type(module) is OneDnnLinear:
            module.__class__ = nn.Linear


def both(model: nn.Module, work: Callable[[], T]) -> tuple[float, T, T]:
    """Work with PyTorch's own layers, then with oneDNN; return the gain, and what both found."""
    use_plain(model)
    plain_s, plain = timed(work)
    use_onednn(model)
    fast_s, fast = timed(work)
    return plain_s / fast_s, plain, fast


def boxes_on(video: Video) -> list[tuple[MaskPrompt, ...]]:
    """Return two episodes of one box each, on the frame in the middle."""
    width, height = video.width, video.height
    episodes: list[tuple[MaskPrompt, ...]] = []
    for left, top, right, bottom in BOXES:
        box = (left * width, top * height, right * width, bottom * height)
        episodes.append((MaskPrompt(video.num_frames // 2, box),))
    return episodes


def tracked(segmenter: Sam2Segmenter, videos: Sequence[Video]) -> list[VideoMasks]:
    """Track the boxes through all videos, whose frames are encoded anew."""
    segmenter.features.kept.clear()
    segmenter.features.bytes = 0
    masks: list[VideoMasks] = []
    for start in range(0, len(videos), TOGETHER):
        batch = [Following(video, boxes_on(video)) for video in videos[start : start + TOGETHER]]
        follow(segmenter, batch)
        for following in batch:
            masks += following.masks()
    return masks


def compare_tracking(segmenter: Segmenter, videos: Sequence[Video], rounds: int) -> None:
    """Print the gain in tracking."""
    assert isinstance(segmenter, Sam2Segmenter)
    tracked(segmenter, videos)
    gains: list[float] = []
    are_equal = True
    for _ in range(rounds):
        gain, plain, fast = both(segmenter.model, lambda: tracked(segmenter, videos))
        gains.append(gain)
        are_equal = are_equal and plain == fast
    print(f"| {len(videos)} videos tracked | {spread(gains)} | {are_equal} |")


@torch.inference_mode()
def compare_official(rounds: int) -> None:
    """Print the gain in encoding one frame by an official shape."""
    torch.manual_seed(0)
    model = build_sam2(OFFICIAL, device="cpu")
    frame = torch.randn(1, 3, OFFICIAL_SIDE, OFFICIAL_SIDE)

    def coarsest() -> Tensor:
        return encode(model, frame)[-1]

    coarsest()
    gains: list[float] = []
    gaps: list[float] = []
    for _ in range(rounds):
        gain, plain, fast = both(model, coarsest)
        gains.append(gain)
        gap = (plain - fast).abs().max() / plain.abs().max()
        gaps.append(float(gap))
    print(f"| a frame encoded by {OFFICIAL} | {spread(gains)} | {max(gaps):.1e} |")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("settings", nargs="*", default=["revseg_tiny"], help="preset and key=value")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--videos", type=int, default=16)
    options = parser.parse_args()
    cfg = load_config(options.settings)
    validate(cfg)
    prepare_data(cfg)
    samples = load_samples(cfg.data.format, cfg.data.root, cfg.data.test_split, cfg.data.no_target)
    videos = {sample.video.uid: sample.video for sample in samples}

    print("| | MKL / oneDNN (spread) | equal |\n|---|---|---|")
    segmenter = load_segmenter(cfg, "cpu")
    compare_tracking(segmenter, list(videos.values())[: options.videos], options.rounds)
    compare_official(options.rounds)


if __name__ == "__main__":
    main()
