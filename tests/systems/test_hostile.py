"""Hostile answers through every system's parser and rewards: no exception, nothing non-finite.

`pytest tests/systems/test_hostile.py --hostile 1000000` plays that many, a quarter for each
system.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from core.types import Episode, Sample
from systems.revseg import ReVSeg
from systems.veason_r1 import VeasonR1
from systems.videoseg_o3 import VideoSegO3
from systems.videoseg_r1 import VideoSegR1
from tests.systems import o3_script, r1_script, revseg_script
from tests.systems.scripted import ScriptedAsk
from tests.systems.veason_r1 import test_veason_r1 as veason_script

# Episodes of a group.
GROUP = 25
NUMBERS = (
    *("1e999", "-1e999", "NaN", "Infinity", "-0", "1e-320", "9" * 400, "9" * 5000, "0x7f"),
    *(
        "-1",
        "2147483648",
        "9223372036854775808",
        "1e308",
        "\u0663",
        "\u00b2",
        "1_000",
        "\u0663.\u0665",
    ),
)
PIECES = (
    *("<think>", "</think>", "<answer>", "</answer>", "<select>", "</select>", "<VTG>", "</VTG>"),
    *("<RefSeg>", "</RefSeg>", "[SEG]", "[", "]", "{", "}", '"', "'", ",", ":", "null", "true"),
    *("\x00", "\x1b[2J", "\r", "\u202e", "\u2028", "\ud800", "\ufeff", "\\", "\\u0000", "```json"),
    *("frame_idx", "bbox_2d", "point_2d", "neg_point_2d", "start", "end", "keyframe", "label"),
    *("{**{}}", "__import__('os')", "lambda: 0", "()", "b'x'", "1j", "..." * 3, "%s", "\t\n" * 50),
)


def hostile(rng: random.Random, good: str) -> str:
    """A right answer made wrong, or noise, or something very long or very deep."""
    kind = rng.random()
    if kind < 0.6:
        return damaged(rng, good)
    if kind < 0.75:
        return re.sub(r"-?\d+", lambda found: odd_number(rng, found[0]), good)
    if kind < 0.97:
        return "".join(rng.choices((*PIECES, *NUMBERS), k=rng.randint(0, 30)))
    opening = rng.choice(("[", "{", "(", '{"a":', "<think>", "-", "'", "[SEG]", "9", "\u0661"))
    return damaged(rng, good) + opening * rng.randint(100, 20_000)


def damaged(rng: random.Random, text: str) -> str:
    """`text` with a few pieces cut out, doubled or put in."""
    for _ in range(rng.randint(1, 6)):
        start = rng.randint(0, len(text))
        stop = min(start + rng.randint(0, 15), len(text))
        put_in = rng.choice((*PIECES, *NUMBERS, "", text[start:stop] * 2))
        text = text[:start] + put_in + text[stop:]
    return text


def odd_number(rng: random.Random, number: str) -> str:
    return rng.choice((number, number, *NUMBERS))


@dataclass(frozen=True)
class Attacked:
    """A system with the right answers of its turns.

    Attributes:
        masks: Returns masks for the rewards of an episode, if they need any.
    """

    system: Any
    sample: Sample
    ask: type[ScriptedAsk]
    turns: Sequence[str]
    masks: Callable[[Episode], Any] | None = None


def drawn(episode: Episode) -> list[Any]:
    square = o3_script.square()
    return [square if number % 3 else None for number in range(len(episode.answer.segs))]


def tracked(episode: Episode) -> list[Any]:
    return veason_script.tracked([veason_script.LEFT], (3, 4))


def attacked(name: str) -> Attacked:
    turns: tuple[str, ...]
    if name == "revseg":
        turns = (revseg_script.GOOD_1, revseg_script.GOOD_2)
        system: Any = ReVSeg.make(revseg_script.TINY)
        return Attacked(system, revseg_script.sample(), ScriptedAsk, turns)
    if name == "videoseg_r1":
        turns = (r1_script.say(r1_script.PERFECT),)
        system = VideoSegR1.make(r1_script.TINY)
        return Attacked(system, r1_script.sample(), ScriptedAsk, turns)
    if name == "videoseg_o3":
        turns = (o3_script.SELECT, o3_script.SELECT_2, o3_script.ANSWER)
        system = VideoSegO3.make(o3_script.TINY)
        return Attacked(system, o3_script.sample(), o3_script.Drawing, turns, drawn)
    turns = (veason_script.say(1, veason_script.BOXES),)
    system = VeasonR1.make(veason_script.TINY)
    return Attacked(system, veason_script.sample(), ScriptedAsk, turns, tracked)


async def played(of: Attacked, seed: int) -> list[Episode]:
    """A group of episodes; the first turns are right in half of them, so later ones are reached."""
    rng = random.Random(seed)
    episodes = []
    for _ in range(GROUP):
        right = rng.randint(0, len(of.turns) - 1) if rng.random() < 0.5 else 0
        texts = [hostile(rng, turn) for turn in of.turns]
        texts[:right] = of.turns[:right]
        episodes.append(await of.system.play(of.sample, of.ask(*texts, auxiliary=[texts[-1]])))
    return episodes


@pytest.mark.parametrize("name", ["revseg", "videoseg_r1", "videoseg_o3", "veason_r1"])
def test_hostile_answers(name: str, hostile_answers: int) -> None:
    of = attacked(name)
    for seed in range(math.ceil(hostile_answers / 4 / GROUP)):
        episodes = asyncio.run(played(of, seed))
        where = f"{name}, seed {seed}"
        if of.masks is None:
            rewards = of.system.score(of.sample, episodes)
        else:
            rewards = of.system.score(of.sample, episodes, [of.masks(each) for each in episodes])
        for episode, reward in zip(episodes, rewards, strict=True):
            assert math.isfinite(reward.total), where
            assert all(math.isfinite(part) for part in reward.parts.values()), where
            for prompt in episode.answer.prompts:
                numbers = [*(prompt.box or ()), *(x for point in prompt.points for x in point)]
                assert all(math.isfinite(x) for x in numbers), where
            json.dumps(episode.answer.to_json(), allow_nan=False)
