"""The parsers of ReVSeg's two answers, and completions that may break them."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from core.geometry import Coordinates, Grid
from core.types import End, View
from systems.revseg import ReVSeg
from systems.revseg.answers import has_box_form, read_box, read_keyframe, whole_box
from tests.systems.revseg_script import GOOD_1, GOOD_2, TINY, sample
from tests.systems.scripted import ScriptedAsk

EIGHT = 8
WANTED = (3, "a cat")


@pytest.mark.parametrize(
    "body",
    [
        '[{"frame_idx": 3, "object description": "a cat"}]',
        "[{'frame_idx': 3, 'object description': 'a cat'}]",
        '{"frame_idx": 3, "object description": "a cat"}',
        '```json\n[{"frame_idx": 3, "object description": "a cat"}]\n```',
        '[{"frame_idx": 3.0, "object description": " a  cat "}]',
        '[{"frame_idx": "3", "object description": "a cat"}]',
        '[{"frame_idx": 3, "object_description": "a cat"}]',
        '[{"frame_idx": 3, "description": "a cat"}]',
        'It is [{"frame_idx": 3, "object description": "a cat"}], I think.',
        '```\n[{"frame_idx": 3, "object description": "a cat"}]\n```',
        '[{"frame_idx": 3, "object description": "a cat"}, '
        '{"frame_idx": 5, "object description": "a dog"}]',
    ],
)
def test_keyframe_is_read(body: str) -> None:
    assert read_keyframe(f"<think>t</think><answer>{body}</answer>", EIGHT) == WANTED
    # A missing thought costs a rule of the format and nothing else.
    assert read_keyframe(f"<answer>{body}</answer>", EIGHT) == WANTED
    assert read_keyframe(body, EIGHT) is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "frame 3",
        '[{"frame_idx": 3}]',
        '[{"object description": "a cat"}]',
        '[{"frame_idx": 3, "object": "a cat"}]',
        '[{"frame": 3, "object description": "a cat"}]',
        '[{"frame_idx": 3, "object description": ""}]',
        '[{"frame_idx": 3, "object description": "", "description": "a cat"}]',
        '[{"frame_idx": 3, "object description": "<|"}]',
        '[{"frame_idx": 3, "object description": 7}]',
        '[{"frame_idx": 3.5, "object description": "a cat"}]',
        '[{"frame_idx": "3.5", "object description": "a cat"}]',
        '[{"frame_idx": "frame 3", "object description": "a cat"}]',
        '[{"frame_idx": "three", "object description": "a cat"}]',
        '[{"frame_idx": true, "object description": "a cat"}]',
        '[{"frame_idx": 8, "object description": "a cat"}]',
        '[{"frame_idx": -1, "object description": "a cat"}]',
        '[{"frame_idx": 1e999, "object description": "a cat"}]',
        '[3, {"frame_idx": 3, "object description": "a cat"}]',
    ],
)
def test_keyframe_is_not_read(body: str) -> None:
    assert read_keyframe(f"<think>t</think><answer>{body}</answer>", EIGHT) is None


BOX = '[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]'


@pytest.mark.parametrize(
    ("text", "strict_form", "loose_form"),
    [
        (f"<think>t</think><answer>{BOX}</answer>", True, True),
        (f"<answer>{BOX}</answer>", False, True),
        (f"```json\n{BOX}\n```", False, True),
        (BOX[1:-1], False, True),
        (BOX.replace('"', "'"), False, True),
        (f"<think>not [{{'bbox_2d': [0, 0, 9, 9]}}]</think>{BOX}", False, True),
        (f"The cat's box is {BOX}.", False, False),
        (f"<answer>The cat's box is {BOX}.</answer>", False, True),
        (f"<think>t</think><answer>{BOX}</answer> Done.", False, False),
    ],
)
def test_box_is_read(text: str, strict_form: bool, loose_form: bool) -> None:
    box = (10, 20, 30, 40)
    tagged = "<answer>" in text
    assert read_box(text, Grid((50, 50))) == box
    assert read_box(text, Grid((50, 50)), strict=True) == (box if tagged else None)
    assert has_box_form(text, strict=True) == strict_form
    assert has_box_form(text) == loose_form


@pytest.mark.parametrize(
    ("row", "box"),
    [
        # Clipped to the image.
        ("[-5, 20, 30, 99]", (0, 20, 30, 50)),
        ("[1.5, 2, 3.5, 4]", (1.5, 2, 3.5, 4)),
        ("[30, 20, 10, 40]", None),
        ("[10, 20, 10, 40]", None),
        # Outside of the image.
        ("[60, 20, 70, 40]", None),
        ("[10, 20, 30]", None),
        ('["10", "20", " 30 ", "40.0"]', (10, 20, 30, 40)),
        ('[10, 20, 30, "40px"]', None),
        ('"10, 20, 30, 40"', None),
        ("[10, 20, 30, NaN]", None),
        ("[10, 20, 30, 1e999]", None),
        ("null", None),
        ("[[10, 20], [30, 40]]", None),
    ],
)
def test_box_edges(row: str, box: tuple[float, ...] | None) -> None:
    assert read_box(f'[{{"bbox_2d": {row}}}]', Grid((50, 50))) == box


@pytest.mark.parametrize("coordinates", ["pixels", "thousandths"])
def test_a_written_box_is_read(coordinates: Coordinates) -> None:
    """Up to the rounding of what was written."""
    grid = Grid((420, 840), coordinates)
    box = (103.0, 88.0, 331.0, 419.0)
    row = whole_box(box, grid)
    assert row == ([123, 210, 394, 998] if coordinates == "thousandths" else list(box))
    assert read_box(f'[{{"bbox_2d": {row}}}]', grid) == pytest.approx(box, abs=0.5)


def test_thousandths_are_cut_at_the_edges_of_the_image() -> None:
    grid = Grid((420, 840), "thousandths")
    assert read_box('[{"bbox_2d": [-5, 500, 1000, 1200]}]', grid) == (0, 210, 840, 420)
    # A written box has an area, however small the object is.
    assert whole_box((839.9, 419.9, 840, 420), grid) == [999, 999, 1000, 1000]


def test_the_largest_readable_box_counts() -> None:
    rows = (
        '[{"bbox_2d": [0,0,2,2]}, {"bbox_2d": [0,0,4,4]}, {"bbox_2d": [9,9,1,1]}, {"label": "x"}]'
    )
    assert read_box(rows, Grid((50, 50))) == (0, 0, 4, 4)


@st.composite
def damaged(draw: DrawFn, text: str) -> str:
    """`text` with pieces cut out, doubled or replaced."""
    for _ in range(draw(st.integers(0, 4))):
        places = st.integers(0, len(text))
        start, stop = sorted((draw(places), draw(places)))
        doubled = text[start:stop] * 2
        pieces = ["", doubled, "[", "}", "\\", "9" * 500, "1e999", "NaN", "\ud800"]
        text = text[:start] + draw(st.sampled_from(pieces)) + text[stop:]
    return text


# No deadline: a busy machine is no failure.
@settings(deadline=None)
@given(
    st.one_of(st.text(), damaged(GOOD_1)),
    st.one_of(st.text(), damaged(GOOD_2)),
    st.booleans(),
    st.booleans(),
)
def test_no_completion_raises(first: str, second: str, decompose: bool, strict: bool) -> None:
    both = GOOD_1[:-11] + ", " + second + "}]</answer>"
    texts = [first, second] if decompose else [both]
    script = ScriptedAsk(*texts)
    system = ReVSeg.make(TINY | {"decompose": decompose, "strict_turn2_tags": strict})
    episode = asyncio.run(system.play(sample(), script))
    (reward,) = system.score(sample(), [episode])
    assert (episode.end is End.DONE) == bool(episode.answer.prompts)
    assert 0 <= reward.total <= 3
    json.dumps(episode.answer.to_json(), allow_nan=False)
    # A tokenizer takes valid Unicode only.
    for content in script.contents:
        for piece in content:
            assert isinstance(piece, View) or piece.encode()
