"""Where [SEG] tokens stand in a row, and how masks share a weight."""

import dataclasses

import numpy as np
import pytest

from core import batch
from core.drawing.requests import (
    DrawRequest,
    draw_requests,
    requests_of_row,
    seg_tokens,
    token_positions,
    with_loss_weights,
)
from core.types import Answer, End, Episode, Group, SegPrompt, Turn

SEG = 9
LAYOUT = batch.ImageLayout(99, 28)


def turn(prompt, completion):
    return Turn(tuple(prompt), tuple(completion), (0.0,) * len(completion), "", (), True, 0)


def row_of(episodes, first=0):
    group = Group("s", tuple(Episode("s", turns, End.DONE) for turns in episodes))
    forest = batch.trees(
        group, 0, [(1.0,) * len(t) for t in episodes], [1.0] * len(episodes), first
    )
    return batch.build_row(forest, LAYOUT)


EPISODES = [
    (
        turn([1, 2, 3], [SEG, 5]),
        turn([SEG, 4], [6, SEG]),
    ),  # [SEG] first; one that the user wrote; and last of all
    (turn([1, 2, 3], [5, SEG, SEG, 6]),),
]


def mask(episode, turn, position, role="keyframe"):
    return DrawRequest(episode, SegPrompt(turn, position, 0, role), "frame")


def test_every_trained_token_stands_where_its_position_says():
    row = row_of(EPISODES, first=4)
    np.testing.assert_array_equal(row.ids_T[token_positions(row)], row.target_N)
    assert row.ids_T.tolist() == [1, 2, 3, SEG, 5, SEG, 4, 6, SEG, 5, SEG, SEG, 6]
    assert token_positions(row).tolist() == [3, 4, 7, 8, 9, 10, 11, 12]


def test_masks_find_their_tokens_and_share_them():
    row = row_of(EPISODES, first=4)
    asked = [mask(5, 0, 2), mask(4, 0, 0), mask(4, 1, 1), mask(4, 0, 0, "video")]
    at = seg_tokens(row, asked, SEG)
    assert at.position_S.tolist() == [3, 8, 11]
    assert at.token_S.tolist() == [0, 3, 6]
    assert at.position_S[at.seg_M].tolist() == [11, 3, 8, 3]


@pytest.mark.parametrize("wrong", [mask(4, 0, 1), mask(4, 0, 2), mask(4, 2, 0), mask(7, 0, 0)])
def test_a_mask_without_its_token_is_an_error(wrong):
    with pytest.raises(ValueError, match=rf"turn {wrong.prompt.turn} is .*not \[SEG\]"):
        seg_tokens(row_of(EPISODES, first=4), [wrong], SEG)


def test_a_row_gets_the_masks_of_its_episodes():
    asked = [mask(3, 0, 0), mask(4, 0, 0), mask(5, 0, 1), mask(4, 1, 1)]
    assert requests_of_row(asked, row_of(EPISODES, first=4)) == asked[1:]
    none = seg_tokens(row_of(EPISODES), [], SEG)
    assert not len(none.position_S)
    assert not len(none.token_S)
    assert not len(none.seg_M)


def test_a_groups_episodes_ask_in_the_order_of_their_answers():
    prompts = [SegPrompt(0, 0, 3), SegPrompt(1, 1, 5, "video"), SegPrompt(0, 1, 5)]
    episodes = [
        Episode("s", EPISODES[0], End.DONE, Answer(segs=tuple(prompts[:2]))),
        Episode("s", (), End.FAILED, Answer(segs=tuple(prompts[:1]))),
        Episode("s", EPISODES[1], End.UNREADABLE, Answer(segs=tuple(prompts[2:]))),
    ]
    found = draw_requests(episodes, 8, {3: "three", 5: "five"})
    assert [(m.episode, m.prompt, m.digest) for m in found] == [
        (8, prompts[0], "three"),
        (8, prompts[1], "five"),
        (10, prompts[2], "five"),
    ]


def test_each_role_shares_the_weight():
    asked = [mask(0, 0, 0), mask(1, 0, 0), *(mask(e, 0, 0, "video") for e in (0, 0, 1, 1, 1))]
    weights = [m.weight for m in with_loss_weights(asked, 0.2)]
    assert weights == [0.1] * 2 + [0.04] * 5
    assert [dataclasses.replace(m, weight=0.0) for m in with_loss_weights(asked, 0.2)] == asked
