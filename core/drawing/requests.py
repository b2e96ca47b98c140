"""Masks drawn by the policy itself: requests at [SEG] tokens, and their places in a row.

A [SEG] token names an object; its hidden state, decoded on a frame, gives the mask there
(VideoSEG-O3, docs/spec/videoseg_o3.md, Masks). A `DrawRequest` is one token and one frame, with all
its facts for training. Frames are named by digest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.batch import GroupBatch
from core.types import End, Episode, Rle, SegPrompt


@dataclass(frozen=True)
class SampledMask:
    """The mask drawn when the episode was played, as calibration sees it.

    Attributes:
        bits: bool (n, n).
        loglik: mean log-likelihood of `bits` under the weights of the drawing.
    """

    bits: np.ndarray
    loglik: float


@dataclass(frozen=True)
class DrawRequest:
    """One mask to draw.

    Attributes:
        episode: number in the whole batch, as in `GroupBatch.episode_N`.
        prompt: the [SEG] token and the frame.
        digest: name of the frame's pixels, at full size, in the row's media table.
        sampled: the mask drawn before, for calibration; None if it is not calibrated.
        truth: the true mask at the frame's size; None is a frame without the object. Read only if
            `weight` is above 0.
        weight: weight of the mask's auxiliary loss; before `with_loss_weights` that of its whole
            role.
    """

    episode: int
    prompt: SegPrompt
    digest: str
    sampled: SampledMask | None = None
    truth: Rle | None = None
    weight: float = 0.0


@dataclass(frozen=True, eq=False)
class DrawnPrompt:
    """A drawn mask for a segmenter to track from its frame.

    Attributes:
        frame: frame number.
        logits_hw: float32, of the whole frame, at the decoder's resolution.
        token_C: float32, the embedding it was drawn from, to draw it again on every frame.
    """

    frame: int
    logits_hw: np.ndarray
    token_C: np.ndarray | None = None


@dataclass(frozen=True)
class DrawnMask:
    """The result of a draw request after the end of its episode.

    Attributes:
        rle: the mask at the frame's size.
        sampled: the same mask for calibration.
        prompt: the same mask for a segmenter, if its role is "final".
    """

    rle: Rle
    sampled: SampledMask
    prompt: DrawnPrompt | None


@dataclass(frozen=True)
class SegTokens:
    """The S [SEG] tokens of a row and its M masks, decoded from them.

    Attributes:
        position_S: place of each token in the row; its own place, not that of its predictor.
        token_S: its index among the row's N trained tokens.
        seg_M: index into S of each mask's token.
    """

    position_S: np.ndarray
    token_S: np.ndarray
    seg_M: np.ndarray


def draw_requests(
    episodes: Sequence[Episode],
    first: int,
    digests: Mapping[int, str],
) -> list[DrawRequest]:
    """Return the requests of a group's episodes, in the order of their answers' `segs`.

    FAILED episodes are left out; they are in no row.

    Args:
        episodes: of one group.
        first: number of the group's first episode in the batch.
        digests: of the video's frames, by frame number.
    """
    requests = []
    for number, episode in enumerate(episodes, first):
        if episode.end is End.FAILED:
            continue
        for seg in episode.answer.segs:
            requests.append(DrawRequest(number, seg, digests[seg.frame]))
    return requests


def requests_of_row(requests: Iterable[DrawRequest], row: GroupBatch) -> list[DrawRequest]:
    """Return the requests of the row's episodes, in the given order."""
    episodes = set(row.episode_N.tolist())
    return [request for request in requests if request.episode in episodes]


def token_positions(row: GroupBatch) -> np.ndarray:
    """Return the places of the trained tokens in the row, (N,).

    A token stands one behind its predicting state. The exception is the first token of a branch,
    predicted by the last state of the prompt.
    """
    starts: list[int] = []
    for _, _, branches in row.segments:
        starts.extend(start for start, _ in branches)
    starts_K = np.array(starts, dtype=np.int64)

    # Trained tokens are ordered by branch, and each branch is an episode.
    is_new_branch_N = np.diff(row.episode_N, prepend=row.episode_N[:1]) != 0
    branch_N = np.cumsum(is_new_branch_N)
    is_first_N = row.branch_T[row.source_N] == 0
    return np.where(is_first_N, starts_K[branch_N], row.source_N + 1)


def seg_tokens(row: GroupBatch, requests: Sequence[DrawRequest], seg_id: int) -> SegTokens:
    """Find the tokens of the requests in the row.

    Raises:
        ValueError: a request's token is not trained in the row, or is not [SEG] (`seg_id`).
    """
    tokens = [_seg_token(row, request, seg_id) for request in requests]
    token_M = np.array(tokens, dtype=np.int64)
    token_S, seg_M = np.unique(token_M, return_inverse=True)
    return SegTokens(token_positions(row)[token_S], token_S, seg_M)


def _seg_token(row: GroupBatch, request: DrawRequest, seg_id: int) -> int:
    """Index of the request's token among the row's trained tokens."""
    turn = request.prompt.turn
    position = request.prompt.position
    of_turn = np.flatnonzero((row.episode_N == request.episode) & (row.turn_N == turn))
    problem = ""
    if not 0 <= position < len(of_turn):
        problem = "is not trained in this row"
    elif row.target_N[of_turn[position]] != seg_id:
        problem = f"is token {row.target_N[of_turn[position]]}"
    if problem:
        raise ValueError(
            f"episode {request.episode}: token {position} of turn {turn} {problem}, not [SEG] "
            f"({seg_id}): the positions of [SEG] must be those of completion_ids"
        )
    return int(of_turn[position])


def with_loss_weights(requests: Sequence[DrawRequest], weight: float) -> list[DrawRequest]:
    """Return the requests of a whole batch with their weights in the auxiliary loss.

        weight * sum over roles of the mean over that role's masks

    One mean over keyframes, one over the other frames. Counting over the batch makes the loss
    independent of the rows and ranks of the episodes. All requests must have a truth.

    Source: docs/spec/videoseg_o3.md, Logit calibration.
    """
    counts = Counter(request.prompt.role for request in requests)
    weighted = []
    for request in requests:
        share = weight / counts[request.prompt.role]
        weighted.append(replace(request, weight=share))
    return weighted
