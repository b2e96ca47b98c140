"""The masks that a policy draws itself: [SEG] tokens of episodes, frames to decode them on, and their places in a row.

A [SEG] token names an object; its hidden state, decoded on a frame, gives the mask there (VideoSEG-O3, SPEC A.3). One
`DrawRequest` is one such pair, and carries what training needs of it. This file knows numbers only: no model, no pixels
(frames are named by digest), no process.
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
    """The mask that was drawn when the episode was played, as calibration sees it (SPEC B.5)."""

    bits: np.ndarray  # bool (n, n)
    loglik: float  # mean log-likelihood of `bits` under the weights that drew it


@dataclass(frozen=True)
class DrawRequest:
    """One mask to draw. `truth` counts only where `weight` is above 0; None is then a frame without the object."""

    episode: int  # number in the whole batch, as in `GroupBatch.episode_N`
    prompt: SegPrompt
    digest: str  # names the frame's pixels at full size, in the table that goes with the row
    sampled: SampledMask | None = None  # None: not calibrated
    truth: Rle | None = None  # of the frame's size
    weight: float = 0.0  # of its auxiliary loss, counted over the whole batch


@dataclass(frozen=True, eq=False)
class DrawnPrompt:
    """A mask that was drawn, for a segmenter to follow from its frame: the last thing that an episode's [SEG] gives."""

    frame: int
    logits_hw: np.ndarray  # float32, at the decoder's resolution, of the whole frame
    token_C: np.ndarray | None = (
        None  # float32, what it was drawn from: to draw it anew on every frame
    )


@dataclass(frozen=True)
class DrawnMask:
    """A mask that was drawn when its episode had ended."""

    rle: Rle  # of the frame's size
    sampled: SampledMask
    prompt: DrawnPrompt | None  # of a mask that is tracked (role "final")


@dataclass(frozen=True)
class SegTokens:
    """M masks of a row and the S tokens that they come from."""

    position_S: (
        np.ndarray
    )  # of each [SEG] token in the row: its own place, not the one that predicts it
    token_S: np.ndarray  # its index among the row's N trained tokens
    seg_M: np.ndarray  # which of the S tokens each mask is decoded from


def draw_requests(
    episodes: Sequence[Episode], first: int, digests: Mapping[int, str]
) -> list[DrawRequest]:
    """All masks that a group's episodes ask for, in the order of their answers' `segs`.

    `first`: number of the group's first episode in the batch; `digests`: of the video's frames, by frame number.
    FAILED episodes are left out: they are in no row.
    """
    return [
        DrawRequest(first + e, seg, digests[seg.frame])
        for e, episode in enumerate(episodes)
        if episode.end is not End.FAILED
        for seg in episode.answer.segs
    ]


def requests_of_row(masks: Iterable[DrawRequest], row: GroupBatch) -> list[DrawRequest]:
    """Those of the row's episodes, in the given order."""
    here = set(row.episode_N.tolist())
    return [mask for mask in masks if mask.episode in here]


def token_positions(row: GroupBatch) -> np.ndarray:
    """(N,) where the trained tokens themselves stand in the row.

    One behind the state that predicts them, but for the first of a branch: that one is predicted by the prompt.
    """
    starts = np.array(
        [start for _, _, branches in row.segments for start, _ in branches], dtype=np.int64
    )
    branch_N = np.cumsum(np.diff(row.episode_N, prepend=row.episode_N[:1]) != 0)
    return np.where(row.branch_T[row.source_N] == 0, starts[branch_N], row.source_N + 1)


def seg_tokens(row: GroupBatch, masks: Sequence[DrawRequest], seg_id: int) -> SegTokens:
    """Raises ValueError for a mask whose token the row does not train or that is no [SEG]."""
    token_M = np.array([_token(row, mask, seg_id) for mask in masks], dtype=np.int64)
    token_S, seg_M = np.unique(token_M, return_inverse=True)
    return SegTokens(token_positions(row)[token_S], token_S, seg_M)


def _token(row: GroupBatch, mask: DrawRequest, seg_id: int) -> int:
    of_turn = np.flatnonzero((row.episode_N == mask.episode) & (row.turn_N == mask.prompt.turn))
    found = of_turn[mask.prompt.position : mask.prompt.position + 1]
    if not len(found) or row.target_N[found[0]] != seg_id:
        what = f"is token {row.target_N[found[0]]}" if len(found) else "is not trained in this row"
        raise ValueError(
            f"episode {mask.episode}: token {mask.prompt.position} of turn {mask.prompt.turn} {what}, not [SEG] "
            f"({seg_id}): the positions of [SEG] must be those of completion_ids"
        )
    return int(found[0])


def with_loss_weights(masks: Sequence[DrawRequest], weight: float) -> list[DrawRequest]:
    """The masks of a whole batch, all of which have a truth, with their weights in the auxiliary loss:

        weight * sum over roles of the mean over that role's masks

    (SPEC B.5: one mean over keyframes, one over the other frames.) Counted here, over the batch, so that the loss does
    not depend on how episodes are dealt to rows and ranks.
    """
    count = Counter(mask.prompt.role for mask in masks)
    return [replace(mask, weight=weight / count[mask.prompt.role]) for mask in masks]
