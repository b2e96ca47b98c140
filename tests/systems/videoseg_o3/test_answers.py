"""Readings of a turn of VideoSEG-O3, by the system's parser and by the release's rewards."""

from __future__ import annotations

import pytest

from systems.videoseg_o3.answers import keeps_form, named_steps, read_last, read_turn
from systems.videoseg_o3.traces import Look
from tests.systems.o3_script import ANSWER, SELECT, STEPS, T, play, say, score

LOOK = Look(3, 9, 5)
JSON = '{"start": 3, "end": 8, "keyframe": 5}'
BODY = f"<VTG>{JSON}</VTG>"
QUOTED_KEYFRAME = BODY.replace("5", '"5"')
SINGLE_QUOTED = BODY.replace('"', "'")


@pytest.mark.parametrize(
    ("text", "strict", "bare"),
    [
        (f"<select>{BODY}</select>", LOOK, LOOK),
        (f"<think>t</think>\n<select> {BODY} <RefSeg>[SEG]</RefSeg></select> bye", LOOK, LOOK),
        # A <select> within the thought selects nothing.
        (f"<think><select>{BODY}</select></think>", None, None),
        (f"<select>{BODY.replace('5', '5.9')}</select>", LOOK, LOOK),
        (f"<select>{BODY.replace('8', '99')}</select>", Look(3, 12, 5), Look(3, 12, 5)),
        (f"<select>{BODY.replace('3', '-3')}</select>", Look(0, 9, 5), Look(0, 9, 5)),
        (f"<select>{BODY.replace('8', '3')}</select>", Look(3, 4, 5), Look(3, 4, 5)),
        (f"<select>{BODY.replace('8', '2')}</select>", None, None),
        (f"<select>{BODY.replace('3', '12')}</select>", None, None),
        (f"<select>{BODY.replace('5', '99')}</select>", Look(3, 9, 11), Look(3, 9, 11)),
        (f"<select>{BODY.replace('5', '1e999')}</select>", None, None),
        (f"<select>{BODY.replace('5', 'NaN')}</select>", None, None),
        (f"<select>{BODY.replace('5', 'true')}</select>", None, None),
        (f"<select>{BODY.replace('5', '9' * 400)}</select>", Look(3, 9, 11), Look(3, 9, 11)),
        (f"<select>{BODY.replace('5', '9' * 5000)}</select>", None, None),
        (f"<select>{QUOTED_KEYFRAME}</select>", None, None),
        # Strict JSON, as released.
        (f"<select>{SINGLE_QUOTED}</select>", None, None),
        (f"<select>{JSON}</select>", None, LOOK),
        (f"<select>frames 3 to 8 {JSON}</select>", None, LOOK),
        ("<select><VTG>[3, 8, 5]</VTG></select>", None, None),
        ("<select><VTG></VTG></select>", None, None),
        ("<select></select>", None, None),
        (f"<select>{BODY}", None, None),
        (BODY, None, None),
    ],
)
def test_a_turn_is_read(text: str, strict: Look | None, bare: Look | None) -> None:
    reading = read_turn(text, T)
    assert reading.select == strict
    assert reading.answer is None
    assert read_turn(text, T, bare_json=True).select == bare

    answer = text.replace("select>", "answer>")
    assert read_turn(answer, T).answer == strict


def test_select_wins_while_a_turn_is_left() -> None:
    _, _, select_without_thought = SELECT.partition("</think>")
    both = ANSWER + select_without_thought
    reading = read_turn(both, T)
    assert reading.select == Look(2, 10, 5)
    assert reading.answer == Look(4, 9, 7)

    episode, _, _ = play(both, both, both)
    assert len(episode.turns) == 3
    # The last turn answers.
    assert score(both, both, both, rewards="as_intended").parts["tiou"] == 1


def test_rewards_of_the_release_read_the_last_block_with_an_exclusive_end() -> None:
    two = f'{BODY}<VTG>{{"start": 1, "end": 4, "keyframe": 2}}</VTG>'
    assert read_last(two, T) == ((1, 4), 2)
    assert read_last(two.replace('"', "'"), T) == ((1, 4), 2)


def test_rewards_of_the_release_clip_the_span_and_drop_a_keyframe_outside_the_video() -> None:
    assert read_last(BODY.replace("8", "99").replace("3", "-1"), T) == ((0, 12), 5)
    assert read_last(BODY.replace("5", "12"), T) == ((3, 8), -1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<VTG>",
        "</VTG>",
        "</VTG><VTG>",
        "<VTG>{}</VTG>",
        '<VTG>{"start": 1, "end": 2}</VTG>',
    ],
)
def test_rewards_of_the_release_read_nothing_in_a_broken_block(text: str) -> None:
    assert read_last(text, T) == ((0, 0), -1)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (SELECT, True),
        (ANSWER, True),
        (ANSWER.replace("<think>", ""), False),
        (ANSWER.replace("</think>", ""), False),
        (ANSWER.replace("[SEG]", ""), False),
        (ANSWER.replace("RefSeg", "RefVOS"), False),
        (ANSWER.replace('"', "'"), False),
        (ANSWER.replace("keyframe", "key"), False),
        (ANSWER.replace("answer>", "result>"), False),
        (ANSWER.replace("VTG>", "vtg>"), False),
        # Impossible numbers keep the form.
        (say("answer", 9, 2, 99), True),
    ],
)
def test_the_form_of_a_turn(text: str, kept: bool) -> None:
    assert keeps_form(text) is kept


def test_named_steps_are_counted() -> None:
    assert named_steps(ANSWER) == 4
    upper_case = ANSWER.upper().replace("THINK", "think")
    assert named_steps(upper_case) == 4
    assert named_steps(ANSWER.replace("Step 2", "Then")) == 3


def test_steps_outside_a_thought_do_not_count() -> None:
    assert named_steps(STEPS) == 0
