"""Places of [SEG] tokens in a row, and the shares of masks in a weight."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from core import batch
from core.batch import GroupBatch
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
Turns = tuple[Turn, ...]


def turn(prompt: Sequence[int], completion: Sequence[int]) -> Turn:
    return Turn(
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        logprobs=(0.0,) * len(completion),
        text="",
        media=(),
        complete=True,
        version=0,
    )


def row_of(episodes: Sequence[Turns], first: int = 0) -> GroupBatch:
    group = Group("s", tuple(Episode("s", turns, End.DONE) for turns in episodes))
    credit = [(1.0,) * len(turns) for turns in episodes]
    weights = [1.0] * len(episodes)
    return batch.build_row(batch.trees(group, 0, credit, weights, first), LAYOUT)


# [SEG] first, one written by the user, and one last of all; then two in a row.
FIRST: Turns = (turn([1, 2, 3], [SEG, 5]), turn([SEG, 4], [6, SEG]))
SECOND: Turns = (turn([1, 2, 3], [5, SEG, SEG, 6]),)
ROW = row_of([FIRST, SECOND], first=4)


def request(episode: int, turn: int, position: int, role: str = "keyframe") -> DrawRequest:
    return DrawRequest(episode, SegPrompt(turn, position, 0, role), "frame")


def test_every_trained_token_stands_at_its_position() -> None:
    positions = token_positions(ROW)
    np.testing.assert_array_equal(ROW.ids_T[positions], ROW.target_N)
    prompt = [1, 2, 3]
    first = [SEG, 5, SEG, 4, 6, SEG]
    second = [5, SEG, SEG, 6]
    assert ROW.ids_T.tolist() == prompt + first + second
    assert positions.tolist() == [3, 4, 7, 8, 9, 10, 11, 12]


def test_requests_find_their_tokens_and_share_them() -> None:
    requests = [
        request(5, 0, 2),
        request(4, 0, 0),
        request(4, 1, 1),
        request(4, 0, 0, "video"),
    ]
    tokens = seg_tokens(ROW, requests, SEG)
    assert tokens.position_S.tolist() == [3, 8, 11]
    assert tokens.token_S.tolist() == [0, 3, 6]
    assert tokens.position_S[tokens.seg_M].tolist() == [11, 3, 8, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(request(4, 0, 1), id="another token"),
        pytest.param(request(4, 0, 2), id="beyond the turn"),
        pytest.param(request(4, 2, 0), id="no such turn"),
        pytest.param(request(7, 0, 0), id="no such episode"),
    ],
)
def test_a_request_without_its_token_is_an_error(wrong: DrawRequest) -> None:
    with pytest.raises(ValueError, match=rf"turn {wrong.prompt.turn} is .*not \[SEG\]"):
        seg_tokens(ROW, [wrong], SEG)


def test_a_row_gets_the_requests_of_its_episodes() -> None:
    requests = [
        request(3, 0, 0),
        request(4, 0, 0),
        request(5, 0, 1),
        request(4, 1, 1),
    ]
    assert requests_of_row(requests, ROW) == requests[1:]


def test_no_requests_have_no_tokens() -> None:
    tokens = seg_tokens(ROW, [], SEG)
    assert not len(tokens.position_S)
    assert not len(tokens.token_S)
    assert not len(tokens.seg_M)


def test_a_groups_episodes_ask_in_the_order_of_their_answers() -> None:
    a = SegPrompt(0, 0, frame=3)
    b = SegPrompt(1, 1, frame=5, role="video")
    c = SegPrompt(0, 1, frame=5)
    episodes = [
        Episode("s", FIRST, End.DONE, Answer(segs=(a, b))),
        Episode("s", (), End.FAILED, Answer(segs=(a,))),
        Episode("s", SECOND, End.UNREADABLE, Answer(segs=(c,))),
    ]
    requests = draw_requests(episodes, 8, {3: "three", 5: "five"})
    assert requests == [
        DrawRequest(8, a, "three"),
        DrawRequest(8, b, "five"),
        DrawRequest(10, c, "five"),
    ]


def test_each_role_shares_the_weight() -> None:
    requests = [request(episode, 0, 0) for episode in (0, 1)]
    requests += [request(episode, 0, 0, "video") for episode in (0, 0, 1, 1, 1)]
    weighted = with_loss_weights(requests, 0.2)
    assert [each.weight for each in weighted] == [0.1] * 2 + [0.04] * 5
    assert [dataclasses.replace(each, weight=0.0) for each in weighted] == requests
