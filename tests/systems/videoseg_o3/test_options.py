"""Options, image sizes and frame budgets of VideoSEG-O3."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from configs.load import load
from systems.videoseg_o3 import VideoSegO3
from systems.videoseg_o3.options import BUDGETS, TERMS
from systems.videoseg_o3.prompts import fit, spread
from tests.systems.o3_script import TINY


def test_sizes_fit_the_budget_and_keep_the_aspect() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = rng.integers(1, 3000, 2).tolist()
        cell = int(rng.choice([28, 32]))
        tokens = int(rng.integers(1, 600))
        fitted_height, fitted_width = fit(height, width, tokens * cell**2, cell)
        assert fitted_height % cell == 0
        assert fitted_width % cell == 0

        rows = fitted_height // cell
        columns = fitted_width // cell
        assert rows >= 1
        assert columns >= 1
        assert rows * columns <= tokens
        # Rounding to whole cells changes the aspect of smaller images more.
        if min(rows, columns) >= 4:
            change = rows / columns * width / height
            assert abs(math.log(change)) < math.log(1.4)


@pytest.mark.parametrize(
    ("height", "width", "pixels", "cell", "size"),
    [
        (112, 112, 10**6, 28, (112, 112)),
        (480, 854, 10**6, 32, (480, 864)),
        # A strip.
        (10, 5000, 784 * 50, 28, (28, 1400)),
    ],
)
def test_sizes_by_hand(
    height: int, width: int, pixels: int, cell: int, size: tuple[int, int]
) -> None:
    assert fit(height, width, pixels, cell) == size


@pytest.mark.parametrize(
    ("frames", "count", "shown"),
    [
        (300, 4, [0, 99, 199, 299]),
        (5, 4, [0, 1, 2, 3, 4]),
        (6, 4, [0, 1, 3, 5]),
        (1, 5, [0]),
        (9, 1, [4]),
        (2, 1, [0, 1]),
    ],
)
def test_frames_are_spread_over_the_video(frames: int, count: int, shown: list[int]) -> None:
    assert spread(frames, count) == shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": "rl"}, "budgets is unknown; did you mean 'budget'"),
        ({"budget": "train"}, r"expected one of rl \| evaluation \| cold_start"),
        ({"max_turns": 0}, "max_turns=0: must be at least 1"),
        ({"temporal_frames": -1}, "must be at least 0"),
        ({"key_pixels": 700}, "key_pixels=700: an image has at least 784 pixels"),
        ({"weights": {"masks": 1.0}}, "weights.masks is unknown; did you mean 'mask'"),
        ({"rewards": "released"}, r"as_released \| as_intended"),
        ({"keyframe_rule": "answer"}, r"as_released \| own"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoSegO3.make(TINY | options)


@pytest.mark.parametrize("preset", ["videoseg_o3_2b", "videoseg_o3_4b"])
def test_presets_have_the_released_options(preset: str) -> None:
    cfg = load([preset])
    options = VideoSegO3.make(cfg.system.options).options
    assert options.frames == BUDGETS["rl"]
    assert options.max_turns == 3
    assert options.rewards == "as_released"
    assert options.all_weights == TERMS
    assert sum(TERMS.values()) == 7


@pytest.mark.parametrize("preset", ["videoseg_o3_2b", "videoseg_o3_4b"])
def test_presets_have_the_released_settings(preset: str) -> None:
    cfg = load([preset])
    size = preset[-2:].upper()
    assert size in cfg.policy.path
    assert cfg.train.steps == 1000
    assert cfg.rollout.prompts_per_step == 16
    assert cfg.rollout.group_size == 4
    assert cfg.rollout.temperature == 0.9
    assert cfg.rollout.top_p == 0.9
    assert cfg.learner.lr == 3e-6
    assert cfg.learner.weight_decay == 0
    assert cfg.learner.schedule == "linear"
    assert cfg.learner.grad_clip == 1
    assert cfg.grpo.kl_coef == 0.04
    assert cfg.grpo.kl_estimator == "k3"
    assert cfg.grpo.advantage_eps == 1e-4
    assert cfg.grpo.aggregation == "sequence_mean"


def test_evaluation_has_its_own_budget() -> None:
    cfg = load(["videoseg_o3_2b", "system.options.budget=evaluation"])
    frames = VideoSegO3.make(cfg.system.options).options.frames
    assert frames.temporal_frames == 20
    assert frames.spatial_frames == 8
    assert frames.max_tokens == 1024
