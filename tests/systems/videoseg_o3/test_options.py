"""Options and frame budgets of VideoSEG-O3."""

import math

import numpy as np
import pytest

from configs.load import load
from systems.videoseg_o3 import VideoSegO3
from systems.videoseg_o3.options import BUDGETS, TERMS
from systems.videoseg_o3.prompts import fit, spread
from tests.systems.o3_script import TINY


def test_sizes_fit_the_budget_and_keep_the_aspect():
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(x) for x in rng.integers(1, 3000, 2))
        factor = int(rng.choice([28, 32]))
        tokens = int(rng.integers(1, 600))
        rows, columns = (side / factor for side in fit(height, width, tokens * factor**2, factor))
        assert rows == int(rows) >= 1
        assert columns == int(columns) >= 1
        assert rows * columns <= tokens
        if min(rows, columns) >= 4:
            assert abs(math.log(rows / columns * width / height)) < math.log(1.4)
    assert fit(112, 112, 10**6, 28) == (112, 112)
    assert fit(480, 854, 10**6, 32) == (480, 864)
    assert fit(10, 5000, 784 * 50, 28) == (28, 1400)  # a strip


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
def test_spread(frames, count, shown):
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
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        VideoSegO3.make(TINY | options)


@pytest.mark.parametrize("preset", ["videoseg_o3_2b", "videoseg_o3_4b"])
def test_presets_have_the_released_numbers(preset):
    cfg = load([preset])
    options = VideoSegO3.make(cfg.system.options).options
    assert options.frames == BUDGETS["rl"]
    assert (options.max_turns, options.rewards) == (3, "as_released")
    assert options.all_weights == TERMS
    assert sum(TERMS.values()) == 7
    assert (cfg.rollout.prompts_per_step, cfg.rollout.group_size, cfg.train.steps) == (16, 4, 1000)
    assert (cfg.rollout.temperature, cfg.rollout.top_p) == (0.9, 0.9)
    learner = cfg.learner
    grpo = cfg.grpo
    assert (learner.lr, learner.weight_decay, learner.schedule, learner.grad_clip) == (
        3e-6,
        0,
        "linear",
        1,
    )
    assert (grpo.kl_coef, grpo.kl_estimator, grpo.advantage_eps, grpo.aggregation) == (
        0.04,
        "k3",
        1e-4,
        "sequence_mean",
    )
    assert preset[-2:].upper() in cfg.policy.path


def test_evaluation_has_its_own_budget():
    cfg = load(["videoseg_o3_2b", "system.options.budget=evaluation"])
    frames = VideoSegO3.make(cfg.system.options).options.frames
    assert (frames.temporal_frames, frames.spatial_frames, frames.max_tokens) == (20, 8, 1024)
