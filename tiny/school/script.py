"""Dialogues of pretraining as numbers: the script of one, and the arrays of a lesson.

A lesson is one scene with all its dialogues, as arrays of fixed sizes (`lesson_layout`). Numpy
alone, because worker processes fill them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from mmap import mmap

import numpy as np

from tiny.school.sizes import Sizes
from tiny.world.scene import COLOURS, NUM_FRAMES

# Frames of the first turn, and their numbers in the video.
SHOWN = 16
SAMPLED = np.round(np.linspace(0, NUM_FRAMES - 1, SHOWN)).astype(np.int64)

# Tokens of a dialogue after the prefix, and of a grounding dialogue. Prefix + dialogue is then a
# multiple of 16, which attention kernels like.
DIALOGUE = 109
GROUND = 104

# Weights of a completion's tokens in the loss. Punctuation is learned within seconds, names decide.
FORMAT = 0.3
NAME = 1.0
THOUGHT = 4.0
COORDINATE = 1.0

COLOUR_INDEX = {name: i for i, name in enumerate(COLOURS)}

# Shape and type of each array of a lesson, and the arrays themselves.
Layout = dict[str, tuple[tuple[int, ...], type]]
Arrays = dict[str, np.ndarray]


def lesson_layout(sizes: Sizes, tokens: int, places: int, dialogues: int, keyframes: int) -> Layout:
    """Return the arrays of a lesson.

        small, keys        pixels of the shown frames and of the keyframes
        key_frame          index of each keyframe among the shown frames
        box, visible       by shown frame and colour; boxes as a share of the side
        traits             shape, motion and trend by colour; -1: no such colour in the scene
        ids, positions     tokens of the dialogues after the prefix
        weight             of predicting the token at this place
        value              number of a coordinate token; -1 elsewhere
        means              colours meant by a frame number or coordinate, as bits; 0 elsewhere
        frame_at           place of each chosen frame number; 0: unused
        frame_share        its label, a distribution over the shown frames
        ground_*           the same of the grounding dialogues

    Args:
        tokens: Most tokens of a dialogue.
        places: Frame numbers that a dialogue chooses.
        dialogues: Dialogues of a lesson.
        keyframes: The first so many dialogues show a keyframe and have a grounding dialogue.
    """
    layout: Layout = {
        "small": ((SHOWN, sizes.small, sizes.small, 3), np.uint8),
        "keys": ((keyframes, sizes.key, sizes.key, 3), np.uint8),
        "key_frame": ((keyframes,), np.int64),
        "box": ((SHOWN, len(COLOURS), 4), np.float32),
        "visible": ((SHOWN, len(COLOURS)), np.bool_),
        "traits": ((len(COLOURS), 3), np.int64),
        "frame_at": ((dialogues, places), np.int64),
        "frame_share": ((dialogues, places, SHOWN), np.float32),
    }
    for prefix, count, length in (("", dialogues, tokens), ("ground_", keyframes, GROUND)):
        layout |= {
            prefix + "ids": ((count, length), np.int64),
            prefix + "positions": ((count, length, 3), np.int64),
            prefix + "weight": ((count, length), np.float32),
            prefix + "value": ((count, length), np.int64),
            prefix + "means": ((count, length), np.int64),
        }
    return layout


@dataclass
class Script:
    """A dialogue under construction, token by token.

    Attributes:
        at: Next position.
        ids: Tokens.
        positions: M-RoPE position of each token.
        weights: Weight of each token in the loss.
        values: Number of a coordinate token; -1 elsewhere.
        means: Colours meant by a frame number or coordinate, as bits; 0 elsewhere.
    """

    at: int = 0
    ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    means: list[int] = field(default_factory=list)

    def say(
        self,
        ids: list[int],
        weight: float = 0.0,
        value: int = -1,
        means: int = 0,
    ) -> None:
        """Append text."""
        for token in ids:
            self.ids.append(token)
            self.positions.append((self.at, self.at, self.at))
            self.weights.append(weight)
            self.values.append(value)
            self.means.append(means)
            self.at += 1

    def show(self, image_id: int, grid: int) -> None:
        """Append an image of grid x grid tokens.

        The text after it continues at the image's largest position plus one.
        """
        for row in range(grid):
            for column in range(grid):
                self.ids.append(image_id)
                self.positions.append((self.at, self.at + row, self.at + column))
                self.weights.append(0.0)
                self.values.append(-1)
                self.means.append(0)
        self.at += grid

    def fill(self, lesson: Arrays, row: int, i: int, prefix: str = "") -> None:
        """Write the dialogue as number `i` into row `row` of a lesson's arrays."""
        n = len(self.ids)
        lesson[prefix + "ids"][row, i, :n] = self.ids
        lesson[prefix + "positions"][row, i, :n] = self.positions
        lesson[prefix + "weight"][row, i, :n] = self.weights
        lesson[prefix + "value"][row, i, :n] = self.values
        lesson[prefix + "means"][row, i, :n] = self.means


def colour_bits(name: str) -> int:
    """Return the colours in a description as bits: "red circle and blue circle" has two."""
    colours = set(name.split()) & set(COLOUR_INDEX)
    return sum(1 << COLOUR_INDEX[colour] for colour in colours)


def arrays(buffer: bytearray | mmap, layout: Layout, count: int) -> Arrays:
    """Return the arrays of `count` lessons inside a buffer of `num_bytes(layout, count)` bytes."""
    views = {}
    offset = 0
    for name, (shape, dtype) in layout.items():
        view = np.ndarray((count, *shape), dtype, buffer, offset)
        views[name] = view
        offset += _aligned(view.nbytes)
    return views


def num_bytes(layout: Layout, count: int) -> int:
    """Return the size of a buffer for `count` lessons."""
    total = 0
    for shape, dtype in layout.values():
        total += _aligned(count * int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return total


def _aligned(size: int) -> int:
    return -(-size // 64) * 64
