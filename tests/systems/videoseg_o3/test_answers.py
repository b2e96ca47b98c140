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
WITHOUT_KEYFRAME = BODY.replace(', "keyframe": 5', "")
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
        # Numbers as texts are read, as released.
        (f"<select>{QUOTED_KEYFRAME}</select>", LOOK, LOOK),
        (f"<select>{QUOTED_KEYFRAME.replace('5', '5.5')}</select>", None, None),
        (f"<select>{QUOTED_KEYFRAME.replace('5', 'five')}</select>", None, None),
        (f"<select>{WITHOUT_KEYFRAME}</select>", None, None),
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


def test_a_missing_key_is_read_as_0_if_asked_for() -> None:
    text = f"<select>{WITHOUT_KEYFRAME}</select>"
    assert read_turn(text, T, fill_keys=True).select == Look(3, 9, 0)
    wrong = BODY.replace("5", "null")
    assert read_turn(f"<select>{wrong}</select>", T, fill_keys=True).select is None


@pytest.mark.parametrize(("mode", "turns"), [("as_released", 2), ("as_intended", 1)])
def test_as_released_an_incomplete_look_is_shown(mode: str, turns: int) -> None:
    """The release takes 0 for what is missing, in its rollout as in its rewards."""
    incomplete = SELECT.replace(', "keyframe": 5', "")
    texts = (incomplete, ANSWER)[:turns]
    episode, _, _ = play(*texts, rewards=mode)
    assert len(episode.turns) == turns


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


def test_rewards_of_the_release_read_the_last_action_with_an_exclusive_end() -> None:
    other = '<VTG>{"start": 1, "end": 4, "keyframe": 2}</VTG>'
    two = f"<select>{BODY}</select><answer>{other}</answer>"
    assert read_last(two, T) == ((1, 4), 2)
    assert read_last(two.replace('"', "'"), T) == ((1, 4), 2)
    # Within an action the first look counts.
    assert read_last(f"<answer>{BODY}{other}</answer>", T) == ((3, 8), 5)


@pytest.mark.parametrize(
    ("look", "read"),
    [
        (BODY.replace("8", "99").replace("3", "-1"), ((0, 12), 5)),
        (BODY.replace("5", "99"), ((3, 8), 11)),
        (BODY.replace("5", "-2"), ((3, 8), 0)),
        (WITHOUT_KEYFRAME, ((3, 8), 0)),
        ("<VTG>{}</VTG>", ((0, 0), 0)),
        (QUOTED_KEYFRAME, ((3, 8), 5)),
        (BODY.replace("5", "5.9"), ((3, 8), 5)),
        (BODY.replace("5", "True"), ((3, 8), 1)),
        (BODY.replace("5", "true"), ((0, 0), -1)),
        (BODY.replace("5", "null"), ((0, 0), -1)),
        (BODY.replace("5", '"5.0"'), ((0, 0), -1)),
        (BODY.replace("5", "1e999"), ((0, 0), -1)),
        ("<VTG>[3, 8, 5]</VTG>", ((0, 0), -1)),
        (f"<VTG>```json{JSON}```</VTG>", ((0, 0), -1)),
    ],
)
def test_rewards_of_the_release_bring_a_look_into_the_video(
    look: str, read: tuple[tuple[int, int], int]
) -> None:
    assert read_last(f"<answer>{look}</answer>", T) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<VTG>",
        "</VTG><VTG>",
        BODY,
        f"<answer>{BODY}",
        f"<answer>{BODY}</select>",
        f"<answer></answer>{BODY}",
    ],
)
def test_rewards_of_the_release_read_nothing_outside_of_an_action(text: str) -> None:
    assert read_last(text, T) == ((0, 0), -1)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (SELECT, True),
        (ANSWER, True),
        (ANSWER.replace("<think>", ""), False),
        (ANSWER.replace("</think>", ""), False),
        (ANSWER.replace("[SEG]", ""), False),
        # Only white space between the thought and the action; around both, anything.
        (ANSWER.replace("</think>", "</think>\n "), True),
        (ANSWER.replace("</think>", "</think>So: "), False),
        (ANSWER.replace("</think>", "</think>So: </think>"), True),
        (f"Well. {ANSWER} Done.", True),
        (ANSWER.replace("</answer>", ""), False),
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
