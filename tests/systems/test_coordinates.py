"""Places in pixels and in thousandths: what is asked, demonstrated, read and rewarded."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import numpy as np
import pytest

import systems
from core.geometry import Coordinates
from core.types import Episode, Sample, Vision
from tests.systems import r1_script, revseg_script
from tests.systems.scripted import ScriptedAsk
from tests.systems.veason_r1 import test_veason_r1 as veason_script

# The frame that training adds is not among those of the demonstration.
VEASON = veason_script.TINY | {"weights": {"clip": 0}, "large_frame": False}
# System, options of a small episode, its sample, and the names of its rewards for places.
CASES = [
    ("revseg", revseg_script.TINY, revseg_script.sample(), ("spatial",)),
    ("videoseg_r1", r1_script.TINY, r1_script.sample(), ("accuracy", "negative")),
    ("veason_r1", VEASON, veason_script.sample(), ("boxes",)),
]
UNITS: list[Coordinates] = ["pixels", "thousandths"]


def ideal(
    name: str, options: dict[str, Any], sample: Sample, unit: Coordinates
) -> tuple[Episode, str, dict[str, float]]:
    """Play the demonstration: the episode, all that was asked, and the parts of its reward."""
    vision = Vision(28, coordinates=unit)
    system = systems.make(name, options | {"prompt": "full"}, vision)
    dialogue = system.demonstrate(sample, np.random.default_rng(0))
    # VideoSeg-R1 gets its target frame from the demonstration's choice.
    shown = system.shown(sample, np.random.default_rng(0))
    ask = ScriptedAsk(*[answer for _, answer in dialogue])
    episode = asyncio.run(system.play(shown, ask))
    (reward,) = system.score(sample, [episode])
    return episode, str(ask.contents), reward.parts


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("name", "options", "sample", "terms"), CASES)
def test_an_ideal_answer_is_right_in_either_unit(
    name: str, options: dict[str, Any], sample: Sample, terms: tuple[str, ...], unit: Coordinates
) -> None:
    _, asked, parts = ideal(name, options, sample, unit)
    assert ("thousandths" in asked) == (unit == "thousandths")
    assert ("pixels of" in asked) == (unit == "pixels")
    for term in terms:
        best = 3 if term == "accuracy" else 1
        assert parts[term] == pytest.approx(best, abs=0.05), term


@pytest.mark.parametrize(("name", "options", "sample", "terms"), CASES)
def test_both_units_say_the_same_place(
    name: str, options: dict[str, Any], sample: Sample, terms: tuple[str, ...]
) -> None:
    in_pixels, _, _ = ideal(name, options, sample, "pixels")
    in_thousandths, _, _ = ideal(name, options, sample, "thousandths")
    for one, other in zip(in_pixels.answer.prompts, in_thousandths.answer.prompts, strict=True):
        assert one.frame == other.frame
        # Both roundings: half a pixel of a shown image, half a thousandth of a side.
        assert other.box == pytest.approx(one.box, abs=0.5)
    # The numbers that were written differ.
    written = [re.findall(r"\d+", e.turns[-1].text) for e in (in_pixels, in_thousandths)]
    assert written[0] != written[1]


def test_the_example_of_a_prompt_is_in_the_policys_unit() -> None:
    _, in_pixels, _ = ideal(*CASES[1][:3], "pixels")
    _, in_thousandths, _ = ideal(*CASES[1][:3], "thousandths")
    assert '"point_2d": [210, 260]' in in_pixels
    # Of 112 x 168 pixels.
    assert '"point_2d": [1250, 2321]' in in_thousandths
