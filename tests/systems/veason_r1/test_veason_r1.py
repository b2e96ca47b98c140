"""Veason-R1: what is shown and asked, how an answer is read, what it earns."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import load, presets
from core.geometry import Grid
from core.masks import decode
from core.types import End, Episode, Hints, Notes, Reward, Sample, Target, View
from systems.veason_r1 import VeasonR1
from systems.veason_r1.answers import Found, read_answer, write_answer
from tests.systems.scripted import ScriptedAsk, rectangle, video

TINY = {"num_frames": 4, "frame_height": 112, "frame_width": 168, "prompt": "short"}

# Two objects; frames 1, 3, 5 and 7 of the eight are shown, at 2.8 times their size.
LEFT = (10, 10, 20, 20)
RIGHT = (40, 10, 50, 30)
BOXES = [[28, 28, 56, 56], [112, 28, 140, 84]]


def sample(seen: tuple[int, ...] = (3, 4, 5), **changes: Any) -> Sample:
    """Both objects in the frames `seen`, the left one alone in frame 6."""
    left = [rectangle(*LEFT) if frame in (*seen, 6) else None for frame in range(8)]
    right = [rectangle(*RIGHT) if frame in seen else None for frame in range(8)]
    targets = (Target("a", tuple(left)), Target("b", tuple(right)))
    return replace(Sample("v/0", video(8), "the dogs", targets), **changes)


def say(place: int, boxes: list[list[int]]) -> str:
    return f"<think>both</think>{write_answer(place, boxes, 'short')}"


def play(
    text: str, of: Sample | None = None, **options: Any
) -> tuple[Episode, ScriptedAsk, VeasonR1]:
    ask = ScriptedAsk(text)
    system = VeasonR1.make(TINY | options)
    return asyncio.run(system.play(of or sample(), ask)), ask, system


def tracked(boxes: list[tuple[int, int, int, int]], frames: tuple[int, ...]) -> list[Any]:
    """Masks of a whole video: the union of `boxes` in `frames`."""
    whole = np.any([decode(rectangle(*box)) for box in boxes], axis=0)
    return [whole if frame in frames else None for frame in range(8)]


def score(text: str, masks: list[Any], of: Sample | None = None, **options: Any) -> Reward:
    episode, _, system = play(text, of, **options)
    (reward,) = system.score(of or sample(), [episode], [masks])
    return reward


# --- playing


def test_one_turn() -> None:
    episode, ask, _ = play(say(1, BOXES))
    views = [View(frame, 112, 168) for frame in (1, 3, 5, 7)]
    shown = ["0", views[0], "1", views[1], "2", views[2], "3", views[3]]
    assert ask.contents == [[*shown, " Locate the dogs."]]
    assert ask.budgets == [1024]
    assert episode.end is End.DONE
    left, right = episode.answer.prompts
    assert left.frame == right.frame == episode.answer.keyframe == 3
    assert left.box == pytest.approx(LEFT)
    assert right.box == pytest.approx(RIGHT)
    assert json.loads(json.dumps(episode.answer.to_json())) == {
        "frame": 3,
        "frame_idx": 1,
        "boxes": BOXES,
        "tags": True,
        "json": True,
    }


def test_no_object_is_an_answer_too() -> None:
    episode, *_ = play(say(0, []))
    assert episode.end is End.DONE
    assert episode.answer.prompts == ()


def test_a_box_without_area_is_not_tracked() -> None:
    episode, *_ = play(say(1, [[50, 50, 50, 60], BOXES[0]]))
    assert len(episode.answer.prompts) == 1


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("<think>t</think><answer>the dogs</answer>", End.UNREADABLE),
        (say(4, BOXES), End.UNREADABLE),
        (say(1, BOXES) + "...", End.TRUNCATED),
    ],
)
def test_answers_that_cannot_be_read(text: str, end: End) -> None:
    episode, *_ = play(text)
    assert episode.end is end
    assert episode.answer.prompts == ()
    assert episode.answer.keyframe is None


@pytest.mark.parametrize("form", ["full", "short"])
def test_what_is_written_is_read(form: Any) -> None:
    text = write_answer(2, [(1, 2, 3, 4)], form)
    assert read_answer(text, 4, Grid((112, 168)), form) == Found(2, ((1, 2, 3, 4),))
    assert read_answer(text, 2, Grid((112, 168)), form) is None
    assert read_answer(text, 4, Grid((112, 2)), form) == Found(2, ((1, 2, 2, 4),))


@pytest.mark.parametrize(
    "body",
    [
        '{"keyframe_timestamp": 2, "bbox_2d_list": [[1, 2, 3, 4]]}',
        "{'keyframe_timestamp': 2.0, 'bbox_2d_list': [[1, 2, 3, 4]]}",
        '```json\n[{"keyframe_timestamp": "2", "bbox_2d_list": [["1", 2, "3.0", 4]]}]\n```',
        'So: {"keyframe_timestamp": 2, "bbox_2d_list": [[1, 2, 3, 4]]}.',
    ],
)
def test_slips_that_are_read(body: str) -> None:
    text = f"<answer>{body}</answer> Done."
    assert read_answer(text, 4, Grid((112, 168)), "full") == Found(2, ((1, 2, 3, 4),))


def test_thousandths_become_pixels_of_the_frame() -> None:
    text = write_answer(2, [(0, 500, 500, 1200)], "full")
    found = read_answer(text, 4, Grid((112, 168), "thousandths"), "full")
    assert found == Found(2, ((0, 56, 84, 112),))


@pytest.mark.parametrize(
    "boxes", ["7", "[[1, 2, 3]]", '[[1, 2, 3, "4px"]]', str([[1, 2, 3, 4]] * 11), "null"]
)
def test_boxes_that_cannot_be_read(boxes: str) -> None:
    text = f'<answer>{{"keyframe_timestamp": 2, "bbox_2d_list": {boxes}}}</answer>'
    assert read_answer(text, 4, Grid((112, 168)), "full") is None


def test_the_full_prompt_says_what_is_needed() -> None:
    _, ask, _ = play("", prompt="full")
    (content,) = ask.contents
    task = str(content[-1])
    assert content[0] == "Frame 0:"
    for words in ('"the dogs"', "0 to 3", "168 x 112", "keyframe_timestamp", "bbox_2d_list"):
        assert words in task
    example = task[task.rindex("<think>") :]
    assert read_answer(example, 4, Grid((840, 840)), "full") == Found(3, ((104, 88, 331, 420),))


# --- training shows a frame with large targets


def test_training_shows_one_of_the_largest_frames() -> None:
    system = VeasonR1.make(TINY)
    shown = [system.shown(sample(), np.random.default_rng(seed)) for seed in range(40)]
    for one in shown:
        assert one.targets == ()
        assert one.hints is not None
        assert one.hints.target_frame in system.frames(one)
        assert len(system.frames(one)) == 4
    assert {one.hints.target_frame for one in shown if one.hints} == {3, 4, 5, 6}
    hinted = replace(sample(), hints=Hints(4))
    assert system.frames(hinted) == [1, 4, 5, 7]


def test_training_without_targets_or_without_the_option() -> None:
    rng = np.random.default_rng(0)
    assert VeasonR1.make(TINY).shown(sample(targets=()), rng).hints is None
    assert VeasonR1.make(TINY | {"large_frame": False}).shown(sample(), rng).hints is None


# --- rewards


def test_terms_by_hand() -> None:
    clip = tracked([LEFT, RIGHT], (3, 4, 5))
    reward = score(say(1, BOXES), clip)
    # Frame 6 shows the left object and has no mask: three of four frames are right.
    assert reward.parts == {"form": 1, "keyframe": 1, "boxes": 1, "clip": 0.75}
    assert reward.total == 3.75


@pytest.mark.parametrize(
    ("boxes", "worth"),
    [
        (BOXES[:1], 0.5),
        ([BOXES[1], BOXES[0]], 1.0),
        ([*BOXES, [0, 0, 10, 10]], 2 / 3),
        ([[28, 28, 56, 42], BOXES[1]], 0.75),
        ([], 0.0),
    ],
)
def test_boxes_are_matched_one_to_one(boxes: list[list[int]], worth: float) -> None:
    reward = score(say(1, boxes), tracked([LEFT], ()))
    assert reward.parts["boxes"] == pytest.approx(worth)


def test_keyframes_are_worth_the_size_of_the_targets() -> None:
    only_left = sample(seen=(4,))
    none = tracked([LEFT], ())
    # The left object alone covers 100 of 300 pixels, in frame 6.
    hinted = replace(only_left, hints=Hints(6))
    assert VeasonR1.make(TINY).frames(hinted) == [1, 3, 6, 7]
    episode, _, system = play(say(2, BOXES[:1]), hinted)
    (reward,) = system.score(only_left, [episode], [none])
    assert reward.parts["keyframe"] == pytest.approx(1 / 3)
    assert score(say(0, BOXES), none).parts["keyframe"] == 0


def test_an_unreadable_answer_earns_nothing() -> None:
    none = tracked([LEFT], ())
    assert score("so", none).total == 0
    assert score("<think>t</think><answer>?</answer>", none).parts["form"] == 0.5


def test_without_targets_empty_masks_are_right() -> None:
    nothing = sample(targets=())
    parts = score(say(1, []), tracked([LEFT], ()), of=nothing).parts
    assert parts == {"form": 1, "keyframe": 0, "boxes": 0, "clip": 1}
    assert score(say(1, []), tracked([LEFT], (2,)), of=nothing).parts["clip"] == 0


def test_masks_are_tracked_only_for_a_reward_that_is_paid() -> None:
    assert VeasonR1.make(TINY).masks_by == "tracker"
    unpaid = VeasonR1.make(TINY | {"weights": {"clip": 0}})
    assert unpaid.masks_by == ""
    episode, *_ = play(say(1, BOXES))
    (reward,) = unpaid.score(sample(), [episode])
    assert reward.parts == {"form": 1, "keyframe": 1, "boxes": 1}


# --- demonstrations, presets and any text


@pytest.mark.parametrize("prompt", ["full", "short"])
def test_a_demonstration_earns_what_can_be_earned(prompt: str) -> None:
    noted = sample(notes=Notes(thought="both dogs"))
    system = VeasonR1.make(TINY | {"prompt": prompt})
    seen = set()
    for seed in range(20):
        ((content, text),) = system.demonstrate(noted, np.random.default_rng(seed))
        episode, ask, _ = play(text, prompt=prompt)
        assert ask.contents == [content]
        assert text.startswith("<think>both dogs</think>")
        (reward,) = system.score(noted, [episode], [tracked([LEFT, RIGHT], (3, 4, 5))])
        assert reward.parts["form"] == reward.parts["keyframe"] == reward.parts["boxes"] == 1
        seen.add(episode.answer.keyframe)
    assert seen == {3, 5}
    with pytest.raises(ValueError, match="'v/0': no target in any of the 4 shown frames"):
        system.demonstrate(sample(targets=()), np.random.default_rng(0))


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith("veason_r1")])
def test_presets_fit_the_system(name: str) -> None:
    cfg = load([name])
    assert cfg.system.name == "veason_r1"
    assert VeasonR1.make(cfg.system.options).options.num_frames > 1


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="weights.clips is unknown; did you mean 'clip'"):
        VeasonR1.make({"weights": {"clips": 1.0}})
    with pytest.raises(ValueError, match="num_frames=0: must be at least 1"):
        VeasonR1.make({"num_frames": 0})


@settings(deadline=None)  # a busy machine is no failure
@given(st.one_of(st.text(), st.integers(0, 3).map(lambda place: say(place, BOXES)[:-9])))
def test_no_completion_raises(text: str) -> None:
    episode, _, system = play(text)
    (reward,) = system.score(sample(), [episode], [tracked([LEFT], ())])
    assert 0 <= reward.total <= 4
    json.dumps(episode.answer.to_json(), allow_nan=False)
