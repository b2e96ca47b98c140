"""VideoSEG-O3: its turns, how an episode ends, its demonstrations."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.types import End, Episode, Notes, Sample, SegPrompt, View
from systems.videoseg_o3 import VideoSegO3
from systems.videoseg_o3.answers import keeps_form
from systems.videoseg_o3.prompts import ask_first, ask_more
from systems.videoseg_o3.traces import Look, write_look
from tests.systems.o3_script import (
    ANSWER,
    SEEN,
    SEG_ID,
    SELECT,
    SELECT_2,
    TINY,
    Drawing,
    Mute,
    T,
    play,
    sample,
    say,
    square,
)

# A frame of 40 x 60 in whole image tokens. Views are never larger than the video, so that small
# frames, larger frames and keyframes have the same size here.
SIZE = (28, 56)


def test_turn_1_shows_the_whole_video() -> None:
    _, script, _ = play(SELECT, SELECT_2, ANSWER)
    temporal = [
        "0",
        View(0, *SIZE),
        "3",
        View(3, *SIZE),
        "7",
        View(7, *SIZE),
        "11",
        View(11, *SIZE),
    ]
    spatial = ["0", View(0, *SIZE), "11", View(11, *SIZE)]
    assert script.contents[0] == [*temporal, *spatial, " Find the dog."]


def test_later_turns_show_the_selected_span_and_keyframe() -> None:
    _, script, _ = play(SELECT, SELECT_2, ANSWER)
    span = ["2", View(2, *SIZE), "5", View(5, *SIZE), "9", View(9, *SIZE)]
    keyframe = ["5", View(5, *SIZE)]
    assert script.contents[1] == [*span, *keyframe, " Find the dog."]
    texts = [piece for piece in script.contents[2] if isinstance(piece, str)]
    assert texts == ["3", "5", "8", "6", " Answer the dog."]
    assert script.budgets == [512] * 3


def test_the_answer_of_three_turns() -> None:
    episode, _, _ = play(SELECT, SELECT_2, ANSWER)
    assert episode.end is End.DONE
    assert episode.answer.prompts == ()
    assert json.loads(json.dumps(episode.answer.to_json())) == {
        "rounds": [
            {"action": "select", "frame": 6, "start": 2, "stop": 10, "keyframe": 5},
            {"action": "select", "frame": 5, "start": 3, "stop": 9, "keyframe": 6},
            {"action": "answer", "frame": 6, "start": 4, "stop": 9, "keyframe": 7},
        ],
        "spatial": [0, 11],
        "frame": 6,
    }


# --- masks


def segs_of(episode: Episode, role: str) -> list[SegPrompt]:
    return [seg for seg in episode.answer.segs if seg.role == role]


def test_masks_of_every_turn_and_the_tracked_frame() -> None:
    episode, _, _ = play(SELECT, ANSWER)
    assert episode.answer.segs == (
        SegPrompt(0, 1, 6),
        SegPrompt(0, 1, 0, "video"),
        SegPrompt(0, 1, 11, "video"),
        SegPrompt(1, 1, 5),
        SegPrompt(1, 1, 0, "video"),
        SegPrompt(1, 1, 11, "video"),
        SegPrompt(1, 1, 5, "final"),
    )
    for seg in episode.answer.segs:
        assert episode.turns[seg.turn].completion_ids[seg.position] == SEG_ID


@pytest.mark.parametrize(
    ("texts", "released", "own"),
    [
        ((ANSWER,), ([6], 7), ([7], 7)),
        ((SELECT, ANSWER), ([6, 5], 5), ([5, 7], 7)),
        # The last select is followed by nothing.
        ((SELECT, SELECT_2, SELECT), ([6, 5, 6], 5), ([5, 6, 5], 5)),
        # Unreadable: the middle of [0, 11] as released.
        (("[SEG]",), ([6], 11), ([6], 6)),
        ((SELECT, "[SEG]"), ([6, 5], 5), ([5, 5], 5)),
    ],
)
def test_keyframe_rules(
    texts: tuple[str, ...], released: tuple[list[int], int], own: tuple[list[int], int]
) -> None:
    for rule, (frames, tracked) in (("as_released", released), ("own", own)):
        episode, _, _ = play(*texts, keyframe_rule=rule)
        assert [seg.frame for seg in segs_of(episode, "keyframe")] == frames
        assert [seg.frame for seg in segs_of(episode, "final")] == [tracked]
        assert episode.answer.keyframe == tracked


@pytest.mark.parametrize(("most", "positions"), [(1, [5]), (2, [3, 5]), (5, [1, 3, 5])])
def test_several_segs_in_a_turn(most: int, positions: list[int]) -> None:
    three = ANSWER.replace("[SEG]", "[SEG] and [SEG] and [SEG]")
    episode, _, _ = play(three, segs_per_turn=most)
    assert [seg.position for seg in segs_of(episode, "keyframe")] == positions
    assert [seg.position for seg in segs_of(episode, "final")] == [5]


def test_a_policy_without_the_id_of_seg_gets_no_masks() -> None:
    episode, _, _ = play(SELECT, ANSWER, script=Mute)
    assert episode.end is End.DONE
    assert episode.answer.segs == ()


# --- ends


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("", End.UNREADABLE),
        ("the dog", End.UNREADABLE),
        (say("answer", 8, 4, 5), End.UNREADABLE),
        (say("select", 8, 4, 5), End.UNREADABLE),
        # Without [SEG] no mask can be drawn.
        (say("answer", 4, 8, 5, seg="the dog"), End.UNREADABLE),
        (ANSWER + "...", End.TRUNCATED),
        (SELECT + "...", End.TRUNCATED),
        (ANSWER, End.DONE),
        (say("answer", 6, 6, 6), End.DONE),
        (say("answer", -3, 99, 99), End.DONE),
    ],
)
def test_how_an_episode_ends(text: str, end: End) -> None:
    episode, _, _ = play(text)
    assert episode.end is end
    assert len(episode.turns) == 1
    draws = "[SEG]" in text and not text.endswith("...")
    assert bool(episode.answer.segs) == draws


def test_an_episode_of_one_turn_may_end_with_a_select() -> None:
    episode, script, _ = play(SELECT, max_turns=1)
    assert episode.end is End.DONE
    assert len(script.contents) == 1


def test_the_full_instruction_of_an_only_turn_offers_no_select() -> None:
    _, script, _ = play(ANSWER, max_turns=1, prompt="full")
    instruction = script.contents[0][-1]
    assert "<select>" not in instruction
    assert "<answer>" in instruction


def test_the_full_instruction_of_turn_1_says_all_that_is_needed() -> None:
    _, script, _ = play(SELECT, SELECT_2, ANSWER, prompt="full")
    first = script.contents[0]
    assert first[:2] == ["The whole video, small:", "Frame 0:"]
    clip = ("12 frames", "0 to 11")
    form = ("Step 1", "Step 2", "Step 3", "Action", "<think>")
    for words in ('"the dog"', *clip, *form):
        assert words in first[-1]


def test_the_examples_of_the_full_instruction_keep_their_form() -> None:
    _, script, _ = play(SELECT, SELECT_2, ANSWER, prompt="full")
    instruction = script.contents[0][-1]
    examples = re.findall(r"<(?:select|answer)>.*?</(?:select|answer)>", instruction)
    assert len(examples) == 2
    for example in examples:
        assert keeps_form(f"<think></think>{example}")


def test_the_full_instructions_of_later_turns() -> None:
    _, script, _ = play(SELECT, SELECT_2, ANSWER, prompt="full")
    _, second, third = script.contents
    assert second[0] == "Frames 2 to 9:"
    assert "Select another" in second[-1]
    assert "Now answer" in third[-1]
    assert '"the dog"' in third[-1]


# --- budgets


def test_the_released_budget_is_the_default() -> None:
    frames = VideoSegO3.make({}).options.frames
    assert frames.temporal_frames == 10
    assert frames.key_pixels == 200_704
    assert frames.max_tokens == 512


def long_video() -> Sample:
    """300 frames of 720 x 1280."""
    whole = sample()
    video = replace(whole.video, height=720, width=1280, frame_names=("a",) * 300)
    return replace(whole, video=video)


def views_in(content: Sequence[str | View]) -> list[View]:
    return [piece for piece in content if isinstance(piece, View)]


@pytest.mark.parametrize(
    ("budget", "count", "tokens"), [("rl", 15, (24, 98, 196)), ("evaluation", 28, (24, 196, 392))]
)
def test_what_the_released_budgets_show(
    budget: str, count: int, tokens: tuple[int, int, int]
) -> None:
    """Count the views of two turns; `tokens` are the most of a view of each size."""
    of = long_video()
    system = VideoSegO3.make({"budget": budget})
    options = system.options
    vision = system.vision
    first = views_in(ask_first(of, options, vision))
    more = views_in(ask_more(of, Look(50, 90, 60), options, vision, last=False))
    assert len(first) == count
    assert len(more) == 6
    assert more[0].frame == 50
    assert more[-2].frame == 89

    sizes = {view.height * view.width // 32**2 for view in [*first, *more]}
    assert len(sizes) == 3
    for size, most in zip(sorted(sizes), tokens, strict=True):
        assert 0.75 * most <= size <= most


@pytest.mark.parametrize("rule", ["as_released", "own"])
@pytest.mark.parametrize("frames", [1, 2, 3, 40])
def test_videos_of_any_length(frames: int, rule: str) -> None:
    video = replace(sample().video, frame_names=("f",) * frames)
    of = sample(video=video, targets=())
    texts = (say("select", 0, 0, 0), say("select", 0, 99, 99), say("answer", 0, 99, 50))
    episode, script, system = play(*texts, of=of, keyframe_rule=rule)
    assert episode.end is End.DONE
    assert len(script.contents) == 3

    empty_masks = [square(0)] * len(episode.answer.segs)
    (reward,) = system.score(of, [episode], [empty_masks])
    assert reward.parts["span"] == 0.5
    assert reward.parts["mask"] == 1.5


# --- damaged texts

BREAKING = (
    "",
    "[",
    "}",
    "\\",
    "9" * 500,
    "-1e999",
    "NaN",
    "null",
    "\ud800",
    "</VTG>",
    "<select>",
    "[SEG]",
    "</think>",
)


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """`text` with pieces cut out, doubled, or replaced by text that breaks parsers."""
    for _ in range(draw(st.integers(0, 4))):
        places = st.integers(0, len(text))
        start, stop = sorted((draw(places), draw(places)))
        doubled = text[start:stop] * 2
        piece = draw(st.sampled_from([*BREAKING, doubled]))
        text = text[:start] + piece + text[stop:]
    return text


COMPLETION = st.one_of(st.text(), damaged(SELECT), damaged(ANSWER), damaged(SELECT_2))


# A slow machine is no failure: no deadline.
@settings(deadline=None)
@given(
    st.tuples(COMPLETION, COMPLETION, COMPLETION),
    st.sampled_from(["as_released", "as_intended"]),
    st.sampled_from(["as_released", "own"]),
    st.booleans(),
    st.sampled_from([sample(), sample(seen=()), sample(targets=())]),
)
def test_no_completion_raises(
    texts: tuple[str, str, str], rewards: str, rule: str, bare: bool, of: Sample
) -> None:
    episode, script, system = play(
        *texts, of=of, rewards=rewards, keyframe_rule=rule, bare_json=bare
    )
    assert episode.end in (End.DONE, End.UNREADABLE, End.TRUNCATED)
    if episode.end is End.DONE:
        assert segs_of(episode, "final")
    for seg in episode.answer.segs:
        assert 0 <= seg.frame < T
        assert seg.turn < len(episode.turns)
    json.dumps(episode.answer.to_json(), allow_nan=False)
    for content in script.contents:
        for view in views_in(content):
            assert 0 <= view.frame < T

    masks = [square(10)] * len(episode.answer.segs)
    (reward,) = system.score(of, [episode], [masks])
    assert -5.5 <= reward.total <= 8
    for part in reward.parts.values():
        assert math.isfinite(part)


# --- demonstrating


@pytest.mark.parametrize("prompt", ["short", "full"])
def test_a_demonstration_earns_what_can_be_earned(prompt: str) -> None:
    options = {"prompt": prompt, "rewards": "as_intended", "keyframe_rule": "own"}
    system = VideoSegO3.make(TINY | options)
    turns = set()
    for seed in range(12):
        dialogue = system.demonstrate(sample(), np.random.default_rng(seed))
        turns.add(len(dialogue))
        script = Drawing(*[text for _, text in dialogue])
        episode = asyncio.run(system.play(sample(), script))
        assert script.contents == [content for content, _ in dialogue]
        assert episode.end is End.DONE
        (reward,) = system.score(sample(), [episode], [true_masks(episode)])
        assert reward.parts["format"] == 1
        assert reward.parts["steps"] == 1
        assert reward.parts["span"] == 0.5
        assert reward.parts["keyframe"] == 1
        assert reward.parts["mask"] == 1.5
        assert reward.parts["tiou"] == 1
        check_narrowing(episode.answer.facts["rounds"])
    assert turns == {1, 2, 3}


def true_masks(episode: Episode) -> list[np.ndarray]:
    masks = []
    for seg in episode.answer.segs:
        masks.append(square() if seg.frame in SEEN else square(0))
    return masks


def check_narrowing(rounds: list[dict[str, Any]]) -> None:
    """Every span lies within the span of the turn before it."""
    for wide, narrow in itertools.pairwise(rounds):
        assert wide["start"] <= narrow["start"]
        assert narrow["stop"] <= wide["stop"]


def test_a_demonstration_uses_the_notes() -> None:
    noted = sample(notes=Notes(thought="it barks", names=("red dog",)))
    dialogue = VideoSegO3.make(TINY).demonstrate(noted, np.random.default_rng(0))
    _, text = dialogue[-1]
    assert "Step 2: red dog." in text
    assert "Step 3: it barks." in text
    # Only the beginning: the keyframe is random.
    assert write_look(Look(4, 9, 5))[:26] in text


def test_a_dialogue_of_the_data_set_is_demonstrated_unchanged() -> None:
    completions = [SELECT, "<answer>[SEG]</answer>"]
    conversations = (
        {"from": "system", "value": "s"},
        {"from": "human", "value": "h"},
        {"from": "gpt", "value": completions[0]},
        {"from": "human", "value": "<image>"},
        {"from": "gpt", "value": completions[1]},
    )
    of = sample(notes=Notes(conversations=conversations, sample_frame_indice=(1, 4, 4)))
    system = VideoSegO3.make(TINY | {"budget": "cold_start"})
    first, second = system.demonstrate(of, np.random.default_rng(0))

    content, text = first
    assert text == completions[0]
    assert [view.frame for view in views_in(content)] == [0, 3, 7, 11, 1, 4]

    content, text = second
    assert text == completions[1]
    look = Look(2, 10, 5)
    assert content == ask_more(of, look, system.options, system.vision, last=False)


@pytest.mark.parametrize(
    ("completions", "message"),
    [
        ([SELECT] * 4, "4 turns; max_turns is 3"),
        ([], "0 turns"),
        (["hm", ANSWER], "turn 1 selects nothing readable: 'hm'"),
    ],
)
def test_a_dialogue_that_cannot_be_played(completions: list[str], message: str) -> None:
    conversations = tuple({"from": "gpt", "value": text} for text in completions)
    of = sample(notes=Notes(conversations=conversations))
    with pytest.raises(ValueError, match=message):
        VideoSegO3.make(TINY).demonstrate(of, np.random.default_rng(0))


def test_a_demonstration_needs_a_target() -> None:
    with pytest.raises(ValueError, match="nothing to find in any of 12 frames"):
        VideoSegO3.make(TINY).demonstrate(sample(targets=()), np.random.default_rng(0))
