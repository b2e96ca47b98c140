"""Groups of episodes become prefix-tree rows: what one learner forward takes.

One row is [prompt | branch 1 | ... | branch G] of one or more groups. A branch is an episode after the shared prompt:
completion 0, prompt 1, completion 1, ... Branches see the prompt and themselves, never each other (the attention uses
`segments`), and their M-RoPE positions all restart after the prompt, so a row equals the row-per-episode computation
while the prompt and the vision tower run once.

This file knows numbers only: no model, no pixels (images are named by digest), no process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.types import End, Episode, Group, Media

Segments = tuple[
    tuple[int, int, tuple[tuple[int, int], ...]], ...
]  # (prompt start, stop, branches (start, stop))


@dataclass(frozen=True)
class ImageLayout:
    """How a model family writes an image into its tokens."""

    token_id: int  # the placeholder
    cell: int  # pixels of one token's side: patch size times merge size (28 for Qwen2.5-VL, 32 for Qwen3-VL)

    def grid(self, media: Media) -> tuple[int, int]:
        return media.view.height // self.cell, media.view.width // self.cell


@dataclass(frozen=True)
class Branch:
    """One episode after the prompt. R tokens, N of them trained."""

    ids_R: np.ndarray
    media: tuple[Media, ...]
    offset_N: np.ndarray  # of the trained tokens in ids_R
    turn_N: np.ndarray
    engine_logprob_N: np.ndarray
    advantage_N: np.ndarray
    weight: float  # of each trained token
    episode: int  # number in the whole batch


@dataclass(frozen=True)
class Tree:
    """A prompt and the branches that share it."""

    group: int  # index of the group in the batch: whose media table it needs
    prompt_ids: tuple[int, ...]
    media: tuple[Media, ...]  # of the prompt
    branches: tuple[Branch, ...]

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + sum(len(b.ids_R) for b in self.branches)


@dataclass(frozen=True)
class GroupBatch:
    """One row. T tokens, N trained tokens; `source_N[i]` is the hidden state that predicts `target_N[i]`."""

    ids_T: np.ndarray  # int64, image placeholders expanded
    positions_3T: np.ndarray  # int64, M-RoPE (time, height, width)
    group_T: np.ndarray  # int32
    branch_T: np.ndarray  # int32, 0 = prompt, 1..G
    segments: Segments
    images: tuple[str, ...]  # unique digests
    image_index: np.ndarray  # int64, occurrence in ids_T -> images
    source_N: np.ndarray  # int64
    target_N: np.ndarray  # int64
    episode_N: np.ndarray  # int64, number in the whole batch
    turn_N: np.ndarray  # int64
    engine_logprob_N: np.ndarray  # float32
    advantage_N: np.ndarray  # float32
    weight_N: np.ndarray  # float64; 0 in a dummy row
    groups: tuple[int, ...]  # whose media tables hold `images`


def mrope_positions(
    ids: Sequence[int] | np.ndarray, grids: Iterable[tuple[int, int]], image_token: int
) -> np.ndarray:
    """(3, T) M-RoPE positions of a token list that starts at 0; `grids` are the (height, width) in tokens per image.

    Text counts up in all three; an image of h x w tokens at p takes (p, p + row, p + column), and what follows goes on
    at p + max(h, w) (Qwen2.5-VL, Sec. 2.1.2; the same for still images in Qwen3-VL).
    Raises ValueError if the placeholders do not fit the grids.
    """
    ids_T = np.asarray(ids, dtype=np.int64)
    image_T = ids_T == image_token
    out_3T = np.empty((3, len(ids_T)), dtype=np.int64)
    position = 0
    i = 0
    for height, width in grids:
        start = i + int(np.argmax(image_T[i:])) if image_T[i:].any() else len(ids_T)
        stop = start + height * width
        if stop > len(ids_T) or not image_T[start:stop].all():
            raise ValueError(
                f"an image of {height} x {width} tokens has no matching placeholders after token {i}"
            )
        out_3T[:, i:start] = position + np.arange(start - i)
        position += start - i
        rows, columns = np.divmod(np.arange(height * width), width)
        out_3T[:, start:stop] = position + np.stack([np.zeros_like(rows), rows, columns])
        position = position + max(height, width)
        i = stop
    if image_T[i:].any():
        raise ValueError(f"{int(image_T[i:].sum())} image placeholder(s) without an image")
    out_3T[:, i:] = position + np.arange(len(ids_T) - i)
    return out_3T


def branch(episode: Episode, advantages: Sequence[float], weight: float, number: int) -> Branch:
    """The episode after its first prompt; only completions of trainable turns are trained."""
    ids: list[int] = []
    columns: list[tuple[int, int, float, float]] = []  # offset, turn, engine log-prob, advantage
    turns = [(t, turn) for t, turn in enumerate(episode.turns) if turn.trainable]
    for i, (t, turn) in enumerate(turns):
        ids += turn.prompt_ids if i else ()
        logprobs = turn.logprobs or (0.0,) * len(turn.completion_ids)  # demonstrations have none
        assert len(logprobs) == len(turn.completion_ids), "one log-prob for each completion token"
        columns += [(len(ids) + j, t, lp, advantages[t]) for j, lp in enumerate(logprobs)]
        ids += turn.completion_ids
    offset, turn_of, logprob, advantage = (
        zip(*columns, strict=True) if columns else ((), (), (), ())
    )
    return Branch(
        ids_R=np.array(ids, dtype=np.int64),
        media=tuple(m for _, turn in turns[1:] for m in turn.media),
        offset_N=np.array(offset, dtype=np.int64),
        turn_N=np.array(turn_of, dtype=np.int64),
        engine_logprob_N=np.array(logprob, dtype=np.float32),
        advantage_N=np.array(advantage, dtype=np.float32),
        weight=weight,
        episode=number,
    )


def trees(
    group: Group,
    index: int,
    credit: Sequence[Sequence[float]],
    weights: Sequence[float],
    first: int,
) -> list[Tree]:
    """The trees of one group: one when all episodes start from the same prompt, as they do in a plain dialogue.

    `credit`: an advantage for each turn of each episode; `weights`: of each token, by episode; `first`: number of the
    group's first episode in the batch. FAILED episodes and those with nothing to train are left out.
    """
    found: dict[tuple, list[Branch]] = {}
    for g, episode in enumerate(group.episodes):
        turns = [t for t in episode.turns if t.trainable]
        if episode.end is End.FAILED or not any(t.completion_ids for t in turns):
            continue
        key = (turns[0].prompt_ids, turns[0].media)
        found.setdefault(key, []).append(branch(episode, credit[g], weights[g], first + g))
    return [Tree(index, prompt_ids, media, tuple(b)) for (prompt_ids, media), b in found.items()]


def split(tree: Tree, budget: int) -> list[Tree]:
    """The tree in parts of at most `budget` tokens, cut between branches, the prompt repeated (exact).

    A single branch that is too long with its prompt is a part of its own.
    """
    parts: list[list[Branch]] = [[]]
    used = len(tree.prompt_ids)
    for b in tree.branches:
        if parts[-1] and used + len(b.ids_R) > budget:
            parts.append([])
            used = len(tree.prompt_ids)
        parts[-1].append(b)
        used += len(b.ids_R)
    return [replace(tree, branches=tuple(part)) for part in parts]


def pack(parts: Sequence[Tree], budget: int) -> list[list[Tree]]:
    """Trees gathered into rows of at most `budget` tokens: longest first, each into the first row with room."""
    rows: list[list[Tree]] = []
    for tree in sorted(parts, key=lambda t: -t.tokens):
        for row in rows:
            if sum(t.tokens for t in row) + tree.tokens <= budget:
                row.append(tree)
                break
        else:
            rows.append([tree])
    return rows


def balance(
    parts: Sequence[Tree], ranks: int, cost: Callable[[Tree], float] = lambda t: t.tokens
) -> list[list[Tree]]:
    """Trees shared out over `ranks` learners: the costliest first, each to the least loaded."""
    shares: list[list[Tree]] = [[] for _ in range(ranks)]
    load = [0.0] * ranks
    for tree in sorted(parts, key=cost, reverse=True):
        rank = load.index(min(load))
        shares[rank].append(tree)
        load[rank] += cost(tree)
    return shares


def dummy(tree: Tree) -> Tree:
    """A short tree of weight 0: a rank without work runs it, because ZeRO-3 gathers parameters on all ranks at once."""
    shortest = min(tree.branches, key=lambda b: len(b.ids_R))
    return replace(tree, branches=(replace(shortest, weight=0.0),))


def rows_of_ranks(
    forest: Sequence[Tree], ranks: int, budget: int, layout: ImageLayout
) -> list[list[GroupBatch]]:
    """The rows of every learner rank, the same number for all of them. `forest` must not be empty."""
    parts = [part for tree in forest for part in split(tree, budget)]
    packed = [pack(share, budget) for share in balance(parts, ranks)]
    filler = dummy(min(parts, key=lambda t: len(t.prompt_ids)))
    most = max(len(rows) for rows in packed)
    return [
        [build_row(row, layout) for row in rows + [[filler]] * (most - len(rows))]
        for rows in packed
    ]


def build_row(forest: Sequence[Tree], layout: ImageLayout) -> GroupBatch:
    """One row of the given trees, without padding."""
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    group_of: list[np.ndarray] = []
    branch_of: list[np.ndarray] = []
    segments = []
    source = []
    shown: list[str] = []
    length = 0

    def add(
        part_ids: np.ndarray, media: tuple[Media, ...], origin: int, group: int, number: int
    ) -> tuple[int, int]:
        nonlocal length
        position = (
            mrope_positions(part_ids, [layout.grid(m) for m in media], layout.token_id) + origin
        )
        ids.append(part_ids)
        positions.append(position)
        group_of.append(np.full(len(part_ids), group, dtype=np.int32))
        branch_of.append(np.full(len(part_ids), number, dtype=np.int32))
        shown.extend(m.digest for m in media)
        start = length
        length = length + len(part_ids)
        return start, length

    for g, tree in enumerate(forest):
        p0, p1 = add(np.array(tree.prompt_ids, dtype=np.int64), tree.media, 0, g, 0)
        origin = int(positions[-1].max()) + 1
        spans = []
        for k, b in enumerate(tree.branches):
            start, stop = add(b.ids_R, b.media, origin, g, k + 1)
            spans.append((start, stop))
            # the first token of every branch is predicted by the last one of the prompt
            source.append(np.where(b.offset_N == 0, p1 - 1, start + b.offset_N - 1))
        segments.append((p0, p1, tuple(spans)))
    branches = [b for tree in forest for b in tree.branches]
    images = tuple(dict.fromkeys(shown))
    number_of = {digest: i for i, digest in enumerate(images)}
    return GroupBatch(
        ids_T=np.concatenate(ids),
        positions_3T=np.concatenate(positions, axis=1),
        group_T=np.concatenate(group_of),
        branch_T=np.concatenate(branch_of),
        segments=tuple(segments),
        images=images,
        image_index=np.array([number_of[d] for d in shown], dtype=np.int64),
        source_N=np.concatenate(source),
        target_N=np.concatenate([b.ids_R[b.offset_N] for b in branches]),
        episode_N=np.concatenate([np.full(len(b.offset_N), b.episode) for b in branches]),
        turn_N=np.concatenate([b.turn_N for b in branches]),
        engine_logprob_N=np.concatenate([b.engine_logprob_N for b in branches]),
        advantage_N=np.concatenate([b.advantage_N for b in branches]),
        weight_N=np.concatenate([np.full(len(b.offset_N), b.weight) for b in branches]),
        groups=tuple(sorted({tree.group for tree in forest})),
    )
