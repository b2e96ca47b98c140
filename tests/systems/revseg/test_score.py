"""Rewards of ReVSeg, by hand and by the published curves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from core.masks import encode
from core.types import End, Reward, Sample, Target
from systems.revseg import ReVSeg
from systems.revseg.options import ReVSegOptions
from tests.systems.revseg_script import GOOD_1, GOOD_2, SIDES, TINY, play, sample


def score(*texts: str, of: Sample | None = None, **options: Any) -> Reward:
    episode, _, system = play(*texts, of=of, **options)
    (reward,) = system.score(of or sample(), [episode])
    assert reward.total == pytest.approx(sum(reward.per_turn))
    assert len(reward.per_turn) == len(episode.turns)
    return reward


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        ((GOOD_1, GOOD_2), (1, 1, 1)),
        # 20 x 20 against 40 x 40 at most; the box is too large.
        ((GOOD_1.replace("2", "1"), GOOD_2), (1, 0.25, 0)),
        # The target is not visible.
        ((GOOD_1.replace("2", "3"), GOOD_2), (1, 0, 0)),
        # IoUs of .45, of .5 (not above the threshold) and of more.
        ((GOOD_1, GOOD_2.replace("112]", "50]")), (1, 1, 0)),
        ((GOOD_1, GOOD_2.replace("112]", "56]")), (1, 1, 0)),
        ((GOOD_1, GOOD_2.replace("112]", "57]")), (1, 1, 1)),
        # No JSON; JSON without a box; a readable box out of form; no thought.
        ((GOOD_1, "sorry"), (0.5, 1, 0)),
        ((GOOD_1, "[{}]"), (0.75, 1, 0)),
        ((GOOD_1, "here: " + GOOD_2), (0.75, 1, 1)),
        ((GOOD_1.partition("</think>")[2], GOOD_2), (0.75, 1, 1)),
        (("<think>t</think><answer>?</answer>",), (0.25, 0, 0)),
        (("",), (0, 0, 0)),
        ((GOOD_1 + "...",), (0, 0, 0)),
    ],
)
def test_parts_by_hand(texts: tuple[str, ...], parts: tuple[float, ...]) -> None:
    reward = score(*texts)
    assert tuple(reward.parts.values()) == pytest.approx(parts)
    assert reward.total == pytest.approx(sum(parts))


def test_parts_and_turns_with_weights() -> None:
    reward = score(GOOD_1, GOOD_2, weights={"format": 1, "temporal": 10, "spatial": 100})
    assert list(reward.parts) == ["format", "temporal", "spatial"]
    assert reward.total == 111
    assert reward.per_turn == (10.5, 100.5)


def test_weights_by_name_leave_the_others() -> None:
    assert score(GOOD_1, GOOD_2, weights={"spatial": 4}).total == 1 + 1 + 4


def test_presets_of_weights() -> None:
    assert list(ReVSegOptions().all_weights.values()) == [1, 1, 1]
    assert score(GOOD_1, GOOD_2, weights="curve").total == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("form", "temporal", "spatial", "total"),
    [
        (0.998, 0.495, 0.589, 0.339),
        (0.999, 0.543, 0.606, 0.347),
        (1, 0.571, 0.623, 0.355),
        (1, 0.594, 0.688, 0.376),
    ],
)
def test_the_curve_preset_is_twice_the_published_curve(
    form: float, temporal: float, spatial: float, total: float
) -> None:
    """Steps 100, 200, 400 and 500 of the digitised training curves, read to about .003."""
    weights = ReVSegOptions(weights="curve").all_weights
    twice = weights["format"] * form + weights["temporal"] * temporal + weights["spatial"] * spatial
    assert twice / 2 == pytest.approx(total, abs=0.004)


@pytest.mark.parametrize(("kind", "expected"), [("none", 0), ("binary", 1), ("soft", 0.25)])
def test_temporal_ablation(kind: str, expected: float) -> None:
    reward = score(GOOD_1.replace("2", "1"), GOOD_2, temporal_reward=kind)
    assert reward.parts["temporal"] == expected


def test_always_visible_and_always_the_same() -> None:
    assert score(GOOD_1, GOOD_2, of=sample(dict.fromkeys(range(8), 40))).parts["temporal"] == 1
    # The smallest frame earns nothing although the target is visible in it.
    always = sample({frame: 10 + frame for frame in range(8)})
    assert score(GOOD_1.replace("2", "0"), GOOD_2, of=always).parts["temporal"] == 0


def test_only_sampled_frames_set_the_scale() -> None:
    assert score(GOOD_1, GOOD_2, of=sample(SIDES | {4: 40, 5: 30})).parts["temporal"] == 1


def test_no_target_earns_format_only() -> None:
    assert score(GOOD_1, GOOD_2, of=sample(targets=())).total == 1


def test_several_targets_are_one_union() -> None:
    mask_HW = np.zeros((40, 60), dtype=bool)
    mask_HW[:40, 40:60] = True
    other = Target("b", tuple(encode(mask_HW) if frame == 5 else None for frame in range(8)))
    pair = sample(targets=(*sample().targets, other))
    assert score(GOOD_1, GOOD_2.replace("112,112", "168,112"), of=pair).parts["spatial"] == 1
    assert score(GOOD_1, GOOD_2.replace("112,112", "80,112"), of=pair).parts["spatial"] == 0


def test_a_group_is_scored_in_order() -> None:
    group = [play(GOOD_1, GOOD_2)[0], play("")[0], play(GOOD_1, "?")[0]]
    system = ReVSeg.make(TINY)
    assert [r.total for r in system.score(sample(), group)] == [3, 0, 1.5]


def test_a_failed_episode_is_never_scored() -> None:
    episode, _, system = play(GOOD_1, GOOD_2)
    with pytest.raises(AssertionError):
        system.score(sample(), [replace(episode, end=End.FAILED)])


def test_scores_do_not_depend_on_the_default_type() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert score(GOOD_1, GOOD_2).total == 3
    finally:
        torch.set_default_dtype(torch.float32)
