"""VideoSEG-O3: what is shown and asked, how an episode ends, what a demonstration is."""

import asyncio
import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.types import End, Notes, SegPrompt, View
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


def test_three_turns():
    episode, script, _ = play(SELECT, SELECT_2, ANSWER)
    small = (28, 56)
    large = (56, 84)
    key = (28, 56)
    first = [
        ("0", View(0, *small)),
        ("3", View(3, *small)),
        ("7", View(7, *small)),
        ("11", View(11, *small)),
    ]
    first += [("0", View(0, 28, 56)), ("11", View(11, 28, 56))]
    assert script.contents[0] == [piece for pair in first for piece in pair] + [" Find the dog."]
    part = [
        ("2", View(2, *small)),
        ("5", View(5, *small)),
        ("9", View(9, *small)),
        ("5", View(5, *key)),
    ]
    assert script.contents[1] == [piece for pair in part for piece in pair] + [" Find the dog."]
    assert [x for x in script.contents[2] if isinstance(x, str)] == [
        "3",
        "5",
        "8",
        "6",
        " Answer the dog.",
    ]
    assert script.budgets == [512] * 3
    assert large != small
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


def test_masks_are_asked_for():
    episode, *_ = play(SELECT, ANSWER)
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
        (
            (SELECT, SELECT_2, SELECT),
            ([6, 5, 6], 5),
            ([5, 6, 5], 5),
        ),  # the last one is followed by nothing
        (("[SEG]",), ([6], 11), ([6], 6)),  # unreadable: the middle of [0, 11] as released
        ((SELECT, "[SEG]"), ([6, 5], 5), ([5, 5], 5)),
    ],
)
def test_keyframe_rules(texts, released, own):
    for rule, (frames, final) in (("as_released", released), ("own", own)):
        episode, *_ = play(*texts, keyframe_rule=rule)
        segs = episode.answer.segs
        assert [seg.frame for seg in segs if seg.role == "keyframe"] == frames
        assert (
            [seg.frame for seg in segs if seg.role == "final"]
            == [final]
            == [episode.answer.keyframe]
        )


def test_several_segs_in_a_turn():
    many = ANSWER.replace("[SEG]", "[SEG] and [SEG] and [SEG]")
    for most, places in ((1, [5]), (2, [3, 5]), (5, [1, 3, 5])):
        segs = play(many, segs_per_turn=most)[0].answer.segs
        assert [seg.position for seg in segs if seg.role == "keyframe"] == places
        assert [seg.position for seg in segs if seg.role == "final"] == [5]


def test_a_policy_that_does_not_tell_ids_gets_no_masks():
    episode, *_ = play(SELECT, ANSWER, script=Mute)
    assert episode.end is End.DONE
    assert episode.answer.segs == ()


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("", End.UNREADABLE),
        ("the dog", End.UNREADABLE),
        (say("answer", 8, 4, 5), End.UNREADABLE),
        (say("select", 8, 4, 5), End.UNREADABLE),
        (say("answer", 4, 8, 5, seg="the dog"), End.UNREADABLE),  # nothing to make a mask of
        (ANSWER + "...", End.TRUNCATED),
        (SELECT + "...", End.TRUNCATED),
        (ANSWER, End.DONE),
        (say("answer", 6, 6, 6), End.DONE),
        (say("answer", -3, 99, 99), End.DONE),
    ],
)
def test_how_an_episode_ends(text, end):
    episode, *_ = play(text)
    assert episode.end is end
    assert len(episode.turns) == 1
    assert (episode.answer.segs == ()) == ("[SEG]" not in text or text.endswith("..."))


def test_one_turn_only():
    episode, script, _ = play(SELECT, max_turns=1)
    assert episode.end is End.DONE
    assert len(script.contents) == 1
    full = play(ANSWER, max_turns=1, prompt="full")[1].contents[0][-1]
    assert "<select>" not in full
    assert "<answer>" in full


def test_full_prompts_say_what_is_needed():
    _, script, _ = play(SELECT, SELECT_2, ANSWER, prompt="full")
    first, second, third = script.contents
    assert first[:2] == ["The whole video, small:", "Frame 0:"]
    for words in (
        '"the dog"',
        "12 frames",
        "0 to 11",
        "Step 1",
        "Step 2",
        "Step 3",
        "Action",
        "<think>",
    ):
        assert words in first[-1]
    examples = re.findall(r"<(?:select|answer)>.*?</(?:select|answer)>", first[-1])
    assert len(examples) == 2
    assert all(keeps_form(f"<think></think>{text}") for text in examples)
    assert second[0] == "Frames 2 to 9:"
    assert "Select another" in second[-1]
    assert "Now answer" in third[-1]
    assert '"the dog"' in third[-1]


def test_a_budget_of_the_release():
    options = VideoSegO3.make({}).options
    assert (
        options.frames.temporal_frames,
        options.frames.key_pixels,
        options.frames.max_tokens,
    ) == (10, 200_704, 512)
    one = sample(video=replace(sample().video, height=720, width=1280, frame_names=("a",) * 300))
    for budget, count, tokens in (("rl", 15, (24, 98, 196)), ("evaluation", 28, (24, 196, 392))):
        system = VideoSegO3.make({"budget": budget})
        views = [x for x in ask_first(one, system.options, system.vision) if isinstance(x, View)]
        views += [
            x
            for x in ask_more(one, Look(50, 90, 60), system.options, system.vision, last=False)
            if isinstance(x, View)
        ]
        assert len(views) == count + 6
        sizes = sorted({view.height * view.width // 32**2 for view in views})
        assert len(sizes) == 3
        assert all(0.75 * most <= size <= most for size, most in zip(sizes, tokens, strict=True))
        assert views[count].frame == 50
        assert views[-2].frame == 89


@pytest.mark.parametrize("frames", [1, 2, 3, 40])
def test_videos_of_any_length(frames):
    of = sample(video=replace(sample().video, frame_names=("f",) * frames), targets=())
    texts = (say("select", 0, 0, 0), say("select", 0, 99, 99), say("answer", 0, 99, 50))
    for rule in ("as_released", "own"):
        episode, script, system = play(*texts, of=of, keyframe_rule=rule)
        assert episode.end is End.DONE
        assert len(script.contents) == 3
        masks = [square(0)] * len(episode.answer.segs)
        (reward,) = system.score(of, [episode], [masks])
        assert reward.parts["span"] == 0.5
        assert reward.parts["mask"] == 1.5


# --- whatever is said


@st.composite
def damaged(draw, text: str) -> str:
    """`text` with pieces cut out, doubled or replaced."""
    pieces = [
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
    ]
    for _ in range(draw(st.integers(0, 4))):
        start, stop = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        piece = draw(st.sampled_from([*pieces, text[start:stop] * 2]))
        text = text[:start] + piece + text[stop:]
    return text


SAID = st.one_of(st.text(), *(damaged(text) for text in (SELECT, ANSWER, SELECT_2)))


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.tuples(SAID, SAID, SAID),
    st.sampled_from(["as_released", "as_intended"]),
    st.sampled_from(["as_released", "own"]),
    st.booleans(),
    st.sampled_from([sample(), sample(seen=()), sample(targets=())]),
)
def test_no_completion_raises(texts, rewards, rule, bare, of):
    episode, script, system = play(
        *texts, of=of, rewards=rewards, keyframe_rule=rule, bare_json=bare
    )
    masks = [[square(10)] * len(episode.answer.segs)]
    (reward,) = system.score(of, [episode], masks)
    assert all(math.isfinite(x) for x in (reward.total, *reward.parts.values()))
    assert -5.5 <= reward.total <= 8
    assert episode.end in (End.DONE, End.UNREADABLE, End.TRUNCATED)
    assert all(0 <= seg.frame < T and seg.turn < len(episode.turns) for seg in episode.answer.segs)
    if episode.end is End.DONE:
        assert any(seg.role == "final" for seg in episode.answer.segs)
    json.dumps(episode.answer.to_json(), allow_nan=False)
    assert all(
        view.frame in range(T)
        for content in script.contents
        for view in content
        if isinstance(view, View)
    )


# --- demonstrating


@pytest.mark.parametrize("prompt", ["short", "full"])
def test_a_demonstration_earns_what_can_be_earned(prompt):
    system = VideoSegO3.make(
        TINY | {"prompt": prompt, "rewards": "as_intended", "keyframe_rule": "own"}
    )
    turns = set()
    for seed in range(12):
        dialogue = system.demonstrate(sample(), np.random.default_rng(seed))
        script = Drawing(*(text for _, text in dialogue))
        episode = asyncio.run(system.play(sample(), script))
        assert script.contents == [content for content, _ in dialogue]
        assert episode.end is End.DONE
        masks = [square() if seg.frame in SEEN else square(0) for seg in episode.answer.segs]
        (reward,) = system.score(sample(), [episode], [masks])
        assert [
            reward.parts[name] for name in ("format", "steps", "span", "keyframe", "mask", "tiou")
        ] == [
            1,
            1,
            0.5,
            1,
            1.5,
            1,
        ]
        turns.add(len(dialogue))
        looks = episode.answer.facts["rounds"]
        for wide, narrow in itertools.pairwise(looks):
            assert wide["start"] <= narrow["start"]
            assert narrow["stop"] <= wide["stop"]
    assert turns == {1, 2, 3}


def test_a_demonstration_uses_the_notes():
    noted = sample(notes=Notes(thought="it barks", names=("red dog",)))
    text = VideoSegO3.make(TINY).demonstrate(noted, np.random.default_rng(0))[-1][1]
    assert "Step 2: red dog." in text
    assert "Step 3: it barks." in text
    assert write_look(Look(4, 9, 5))[:26] in text


def test_a_dialogue_of_the_data_is_shown_as_it_is():
    said = [SELECT, "<answer>[SEG]</answer>"]
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "h"},
        {"from": "gpt", "value": said[0]},
        {"from": "human", "value": "<image>"},
        {"from": "gpt", "value": said[1]},
    ]
    of = sample(notes=Notes(conversations=tuple(turns), sample_frame_indice=(1, 4, 4)))
    system = VideoSegO3.make(TINY | {"budget": "cold_start"})
    dialogue = system.demonstrate(of, np.random.default_rng(0))
    assert [text for _, text in dialogue] == said
    views = [x.frame for x in dialogue[0][0] if isinstance(x, View)]
    assert views == [0, 3, 7, 11, 1, 4]
    assert dialogue[1][0] == ask_more(of, Look(2, 10, 5), system.options, system.vision, last=False)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([SELECT] * 4, "4 turns; max_turns is 3"),
        ([], "0 turns"),
        (["hm", ANSWER], "turn 1 selects nothing readable: 'hm'"),
    ],
)
def test_a_dialogue_that_cannot_be_played(said, message):
    of = sample(notes=Notes(conversations=tuple({"from": "gpt", "value": text} for text in said)))
    with pytest.raises(ValueError, match=message):
        VideoSegO3.make(TINY).demonstrate(of, np.random.default_rng(0))


def test_nothing_to_demonstrate():
    with pytest.raises(ValueError, match="nothing to find in any of 12 frames"):
        VideoSegO3.make(TINY).demonstrate(sample(targets=()), np.random.default_rng(0))
