"""Readings of a turn of VideoSEG-O3, by the system's parser and by the release's rewards."""

import pytest

from systems.videoseg_o3.answers import keeps_form, named_steps, read_last, read_turn
from systems.videoseg_o3.traces import Look
from tests.systems.o3_script import ANSWER, SELECT, STEPS, T, play, say, score

LOOK = Look(3, 9, 5)
BODY = '<VTG>{"start": 3, "end": 8, "keyframe": 5}</VTG>'


@pytest.mark.parametrize(
    ("text", "strict", "bare"),
    [
        (f"<select>{BODY}</select>", LOOK, LOOK),
        (f"<think>t</think>\n<select> {BODY} <RefSeg>[SEG]</RefSeg></select> bye", LOOK, LOOK),
        (f"<think><select>{BODY}</select></think>", None, None),  # only thought of
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
        (f"<select>{BODY.replace('5', chr(34) + '5' + chr(34))}</select>", None, None),
        (
            f"<select>{BODY.replace(chr(34), chr(39))}</select>",
            None,
            None,
        ),  # strict JSON, as released
        ("<select>" + BODY[5:-6] + "</select>", None, LOOK),
        (f"<select>frames 3 to 8 {BODY[5:-6]}</select>", None, LOOK),
        ("<select><VTG>[3, 8, 5]</VTG></select>", None, None),
        ("<select><VTG></VTG></select>", None, None),
        ("<select></select>", None, None),
        (f"<select>{BODY}", None, None),
        (BODY, None, None),
    ],
)
def test_a_select_is_read(text, strict, bare):
    assert read_turn(text, T).select == strict
    assert read_turn(text, T).answer is None
    assert read_turn(text, T, bare_json=True).select == bare
    assert read_turn(text.replace("select>", "answer>"), T).answer == strict


def test_select_wins_while_a_round_is_left():
    both = f"{ANSWER}{SELECT.partition('</think>')[2]}"
    assert read_turn(both, T).select == Look(2, 10, 5)
    assert read_turn(both, T).answer == Look(4, 9, 7)
    episode, *_ = play(both, both, both)
    assert len(episode.turns) == 3
    assert (
        score(both, both, both, rewards="as_intended").parts["tiou"] == 1
    )  # the answer, in the last one


def test_rewards_of_the_release_read_the_last_block_with_an_exclusive_end():
    two = f'{BODY}<VTG>{{"start": 1, "end": 4, "keyframe": 2}}</VTG>'
    assert read_last(two, T) == ((1, 4), 2)
    assert read_last(two.replace('"', "'"), T) == ((1, 4), 2)
    assert read_last(BODY.replace("8", "99").replace("3", "-1"), T) == ((0, 12), 5)
    assert read_last(BODY.replace("5", "12"), T) == ((3, 8), -1)
    for text in (
        "",
        "<VTG>",
        "</VTG>",
        "</VTG><VTG>",
        "<VTG>{}</VTG>",
        '<VTG>{"start": 1, "end": 2}</VTG>',
    ):
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
        (say("answer", 9, 2, 99), True),  # the form alone
    ],
)
def test_form(text, kept):
    assert keeps_form(text) is kept


def test_named_steps():
    assert named_steps(ANSWER) == 4
    assert named_steps(ANSWER.upper().replace("THINK", "think")) == 4
    assert named_steps(ANSWER.replace("Step 2", "Then")) == 3
    assert named_steps(STEPS) == 0
