"""What is read in the two rounds of ReVSeg, and completions that break parsers."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.types import End
from systems.revseg import ReVSeg
from systems.revseg.answers import has_box_form, read_box, read_keyframe
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
        '[{"frame_idx": 3, "object description": "a cat"}, {"frame_idx": 5, "object description": "a dog"}]',
    ],
)
def test_keyframe_is_read(body):
    assert read_keyframe(f"<think>t</think><answer>{body}</answer>", EIGHT) == WANTED
    assert (
        read_keyframe(f"<answer>{body}</answer>", EIGHT) == WANTED
    )  # no thought: costs a format rule only
    assert read_keyframe(body, EIGHT) is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "frame 3",
        '[{"frame_idx": 3}]',
        '[{"object description": "a cat"}]',
        '[{"frame_idx": 3, "object_description": "a cat"}]',
        '[{"frame_idx": 3, "object description": ""}]',
        '[{"frame_idx": 3, "object description": "<|"}]',
        '[{"frame_idx": 3, "object description": 7}]',
        '[{"frame_idx": 3.5, "object description": "a cat"}]',
        '[{"frame_idx": "3", "object description": "a cat"}]',
        '[{"frame_idx": true, "object description": "a cat"}]',
        '[{"frame_idx": 8, "object description": "a cat"}]',
        '[{"frame_idx": -1, "object description": "a cat"}]',
        '[{"frame_idx": 1e999, "object description": "a cat"}]',
        '[3, {"frame_idx": 3, "object description": "a cat"}]',
    ],
)
def test_keyframe_is_not_read(body):
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
    ],
)
def test_box_is_read(text, strict_form, loose_form):
    assert read_box(text, (50, 50)) == (10, 20, 30, 40)
    assert read_box(text, (50, 50), strict=True) == (
        (10, 20, 30, 40) if "<answer>" in text else None
    )
    assert (has_box_form(text, strict=True), has_box_form(text)) == (strict_form, loose_form)


@pytest.mark.parametrize(
    ("row", "box"),
    [
        ("[-5, 20, 30, 99]", (0, 20, 30, 50)),  # clipped
        ("[1.5, 2, 3.5, 4]", (1.5, 2, 3.5, 4)),
        ("[30, 20, 10, 40]", None),
        ("[10, 20, 10, 40]", None),
        ("[60, 20, 70, 40]", None),  # outside
        ("[10, 20, 30]", None),
        ('[10, 20, 30, "40"]', None),
        ("[10, 20, 30, NaN]", None),
        ("[10, 20, 30, 1e999]", None),
        ("null", None),
        ("[[10, 20], [30, 40]]", None),
    ],
)
def test_box_edges(row, box):
    assert read_box(f'[{{"bbox_2d": {row}}}]', (50, 50)) == box


def test_the_largest_readable_box_counts():
    rows = (
        '[{"bbox_2d": [0,0,2,2]}, {"bbox_2d": [0,0,4,4]}, {"bbox_2d": [9,9,1,1]}, {"label": "x"}]'
    )
    assert read_box(rows, (50, 50)) == (0, 0, 4, 4)


@st.composite
def damaged(draw, text: str) -> str:
    """`text` with pieces cut out, doubled or replaced."""
    for _ in range(draw(st.integers(0, 4))):
        start, stop = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        piece = draw(
            st.sampled_from(
                ["", text[start:stop] * 2, "[", "}", "\\", "9" * 500, "1e999", "NaN", "\ud800"]
            )
        )
        text = text[:start] + piece + text[stop:]
    return text


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.one_of(st.text(), damaged(GOOD_1)),
    st.one_of(st.text(), damaged(GOOD_2)),
    st.booleans(),
    st.booleans(),
)
def test_no_completion_raises(first, second, decompose, strict):
    both = GOOD_1[:-11] + ", " + second + "}]</answer>"
    texts = [first, second] if decompose else [both]
    script = ScriptedAsk(*texts)
    system = ReVSeg.make(TINY | {"decompose": decompose, "strict_turn2_tags": strict})
    episode = asyncio.run(system.play(sample(), script))
    (reward,) = system.score(sample(), [episode])
    assert (episode.end is End.DONE) == bool(episode.answer.prompts)
    assert 0 <= reward.total <= 3
    json.dumps(episode.answer.to_json(), allow_nan=False)
    for content in script.contents:  # a tokenizer takes valid Unicode only
        " ".join(x for x in content if isinstance(x, str)).encode()
