"""What all systems share: the base class with its defaults, weighted rewards, and small helpers.

A system is a folder: `options.py`, `prompts.py`, `answers.py`, `score.py`, `demonstrate.py`, and
the class itself in `__init__.py`. `docs/extending.md` walks through a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from core.geometry import Box, Grid
from core.parsing import plain
from core.settings import make_settings, unknown_name
from core.types import (
    Ask,
    End,
    Episode,
    EpisodeMasks,
    Hints,
    MaskMaker,
    Reward,
    Sample,
    Turn,
    View,
    Vision,
)

# Name of the options in messages.
WHERE = "system.options"

# For a policy that is not known, as in tests: the cell of Qwen2.5-VL.
DEFAULT_VISION = Vision(cell=28)

# A user message: text and frames in the order of reading.
Content = list[str | View]

# A dialogue from the ground truth: for each turn the user message and the ideal completion.
Demonstration = tuple[tuple[Content, str], ...]

OptionsT = TypeVar("OptionsT")


class BaseSystem(Generic[OptionsT]):
    """A system without auxiliary questions, with a reward that needs no masks, unless overridden.

    A subclass gives `name`, `schema`, `play`, `demonstrate`, and either `weights` and `terms` or a
    `score` of its own. `core.types.System` documents the methods.

    Attributes:
        name: the system's name in a configuration.
        schema: the dataclass of its options.
    """

    name: str
    schema: type[OptionsT]

    def __init__(self, options: OptionsT | None = None, vision: Vision = DEFAULT_VISION) -> None:
        self.vision = vision
        self.options: OptionsT = round_sizes(options or self.schema(), vision)

    @classmethod
    def make(cls, options: Mapping[str, Any], vision: Vision = DEFAULT_VISION) -> Self:
        """Build the system from `system.options` of a configuration.

        Raises:
            ValueError: an unknown option, or a value that does not fit.
        """
        return cls(make_settings(cls.schema, options, WHERE), vision)

    @property
    def system_message(self) -> str:
        return ""

    def grid(self, hw: tuple[int, int]) -> Grid:
        """Return the numbers in which the policy writes places in an image of (height, width)."""
        return Grid(hw, self.vision.coordinates)

    def shown(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return sample.bare

    @property
    def uses_hints(self) -> bool:
        return False

    def hints(self, episode: Episode) -> Hints | None:
        return None

    @property
    def masks_by(self) -> MaskMaker:
        return ""

    @property
    def needs_masks(self) -> bool:
        return True

    @property
    def tasks(self) -> tuple[str, ...]:
        return ()

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        raise NotImplementedError

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each term of the reward."""
        raise NotImplementedError

    def terms(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None
    ) -> dict[str, Tensor]:
        """Return the terms of the reward by name, (G,) each, before their weights."""
        raise NotImplementedError

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]:
        """Return the reward of each episode: the weighted sum of its terms."""
        check_group(sample, episodes)
        return weighted_rewards(self.terms(sample, episodes, masks), self.weights)

    def demonstrate(self, sample: Sample, rng: np.random.Generator) -> Demonstration:
        raise NotImplementedError


# --- options


def round_sizes(options: OptionsT, vision: Vision) -> OptionsT:
    """Round every pair `x_height`, `x_width` of the options to whole image tokens."""
    rounded = {}
    for each in fields(options):  # type: ignore[arg-type]
        kind, is_height, _ = each.name.partition("_height")
        if is_height:
            height = getattr(options, f"{kind}_height")
            width = getattr(options, f"{kind}_width")
            rounded[f"{kind}_height"], rounded[f"{kind}_width"] = vision.round_size(height, width)
    return replace(options, **rounded)  # type: ignore[type-var]


def check_weights(weights: Mapping[str, float], terms: Mapping[str, float]) -> None:
    """Check that `system.options.weights` names terms of the reward.

    Raises:
        ValueError: a name that is no term.
    """
    for name in weights:
        if name not in terms:
            raise ValueError(unknown_name(f"{WHERE}.weights.{name}", name, terms))


# --- rewards


def weighted_sum(
    parts_G: Sequence[Mapping[str, float]], weights: Mapping[str, float]
) -> list[float]:
    """Return the total of each episode: its parts times their weights, added in the given order.

    Args:
        parts_G: `parts_of_episodes`.
        weights: by name; may hold more names than the parts.
    """
    totals_G = []
    for parts in parts_G:
        total = 0.0
        for name, value in parts.items():
            total += weights[name] * value
        totals_G.append(total)
    return totals_G


def parts_of_episodes(terms: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Return name -> value for each episode, from name -> values (G,).

    All terms leave a GPU in one copy.
    """
    table_GT = torch.stack([term_G.double() for term_G in terms.values()], dim=1)
    return [dict(zip(terms, row, strict=True)) for row in table_GT.tolist()]


def weighted_rewards(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> list[Reward]:
    """Return the reward of each episode: the weighted sum of its terms."""
    parts_G = parts_of_episodes(terms)
    totals_G = weighted_sum(parts_G, weights)
    return [Reward(total, parts) for total, parts in zip(totals_G, parts_G, strict=True)]


def check_group(sample: Sample, episodes: Sequence[Episode]) -> None:
    """Assert what every `score` may rely on: episodes of this sample, none of them FAILED."""
    assert episodes, "a group has episodes"
    for episode in episodes:
        assert episode.end is not End.FAILED, "failed episodes are not scored"
        assert episode.sample_uid == sample.uid


# --- prompts and answers


def show_frames(names: Sequence[str], frames: Sequence[int], hw: tuple[int, int]) -> Content:
    """Return each frame at the size (height, width), after its name."""
    content: Content = []
    for name, frame in zip(names, frames, strict=True):
        content += [name, View(frame, *hw)]
    return content


def unit_of(grid: Grid, image: str) -> str:
    """Return the unit of a policy's numbers in the words of a prompt.

    Args:
        image: the name of the image in the prompt, such as "the target frame".
    """
    if grid.coordinates == "thousandths":
        return f"thousandths of the width and height of {image} (0 to 1000)"
    height, width = grid.hw
    return f"pixels of {image} ({width} x {height})"


def whole_numbers(grid: Grid, pixels: Sequence[float]) -> list[int]:
    """Return x, y, x, y, ... in pixels as a policy writes them: in its unit, rounded."""
    return [round(number) for number in grid.from_pixels(pixels)]


def clip_box(box: Sequence[float], hw: tuple[int, int]) -> Box:
    """Return a box cut off at the edges of an image of (height, width) `hw`."""
    height, width = (float(side) for side in hw)
    x0, y0, x1, y1 = (max(corner, 0.0) for corner in box)
    return min(x0, width), min(y0, height), min(x1, width), min(y1, height)


def said(turn: Turn) -> str:
    """Return the text of a turn; a turn cut off by its token budget says nothing."""
    return turn.text if turn.complete else ""


def end_of(turn: Turn, readable: bool) -> End:
    """Return how an episode ended with `turn` as its last one."""
    if readable:
        return End.DONE
    return End.UNREADABLE if turn.complete else End.TRUNCATED


def video_hw(sample: Sample) -> tuple[int, int]:
    """Return height and width of the sample's video."""
    return sample.video.height, sample.video.width


# --- demonstrations


def describe(sample: Sample) -> str:
    """Return what the target looks like, from the notes or else the query."""
    names = sample.notes.names or [sample.query.removeprefix("the ")]
    return plain(sample.notes.description or " and ".join(names))


def thought_of(sample: Sample) -> str:
    """Return a thought that leads to the answer, from the notes or else the query."""
    return plain(sample.notes.thought or f"{sample.query}: {describe(sample)}")
