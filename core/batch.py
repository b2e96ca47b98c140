"""Groups of episodes become prefix-tree rows, the input of one learner forward.

A row is [prompt | branch 1 | ... | branch G] of one or more groups. A branch is an episode after
the shared prompt: completion 0, prompt 1, completion 1, and so on. Branches attend to the prompt
and to themselves, never to each other (the attention reads `segments`), and their M-RoPE positions
all restart after the prompt. So a row gives the same result as one row for each episode, while the
prompt and the vision tower run once.

Images are named by digest; no pixels are needed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from core.packed import array_of
from core.types import End, Episode, Group, Media, Turn

# For each tree of a row: start and stop of its prompt, and (start, stop) of each branch.
Segments = tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]


@dataclass(frozen=True)
class ImageLayout:
    """How a model family writes an image into its tokens.

    Attributes:
        token_id: the placeholder, one for each image token.
        cell: pixels on a side of one image token (`core.types.Vision`).
    """

    token_id: int
    cell: int

    def grid(self, media: Media) -> tuple[int, int]:
        """Return the image's (height, width) in tokens."""
        return media.view.height // self.cell, media.view.width // self.cell


@dataclass(frozen=True)
class Trained:
    """The trained tokens of one turn: a completion in its branch.

    Attributes:
        start: place of the first one in the branch.
        stop: place behind the last one.
        turn: index of the turn in the episode.
        version: version of the weights that sampled them.
        advantage: of each of them.
    """

    start: int
    stop: int
    turn: int
    version: int
    advantage: float


@dataclass(frozen=True)
class Branch:
    """One episode after the shared prompt: R tokens, N of them trained.

    It travels from the driver to the ranks, so it holds as few arrays as possible.

    Attributes:
        ids_R: int32, tokens.
        media: images in `ids_R`, in order.
        trained: the places of the N tokens, turn by turn.
        engine_logprob_N: float32, the log-prob of each in the engine.
        weight: weight of each trained token in the loss.
        episode: number of the episode in the whole batch.
    """

    ids_R: np.ndarray
    media: tuple[Media, ...]
    trained: tuple[Trained, ...]
    engine_logprob_N: np.ndarray
    weight: float
    episode: int

    def offset_N(self) -> np.ndarray:
        """Return the place of each trained token in `ids_R`, int64."""
        return np.concatenate([np.arange(part.start, part.stop) for part in self.trained])

    def each_N(self, values: Sequence[float], dtype: type) -> np.ndarray:
        """Return for each trained token the value of its turn."""
        counts = [part.stop - part.start for part in self.trained]
        return np.repeat(np.array(values, dtype=dtype), counts)


@dataclass(frozen=True)
class Tree:
    """A prompt and its branches.

    Attributes:
        group: index of the group in the batch.
        prompt_ids: tokens of the prompt.
        media: images in the prompt, in order.
        branches: episodes after the prompt.
    """

    group: int
    prompt_ids: Sequence[int]
    media: tuple[Media, ...]
    branches: tuple[Branch, ...]

    @cached_property
    def tokens(self) -> int:
        return len(self.prompt_ids) + sum(len(branch.ids_R) for branch in self.branches)


@dataclass(frozen=True)
class GroupBatch:
    """One row: T tokens, N of them trained.

    Attributes:
        ids_T: int64, tokens with image placeholders expanded.
        positions_3T: int64, M-RoPE positions (time, height, width).
        group_T: int32, number of the tree in the row.
        branch_T: int32, 0 for the prompt, 1 to G for the branches.
        segments: where prompts and branches start and stop.
        images: unique digests.
        image_index: int64, index into `images` of each image in `ids_T`, in order.
        source_N: int64, place of the hidden state before the trained token.
        target_N: int64, the trained token.
        episode_N: int64, number of its episode in the whole batch.
        turn_N: int64, index of its turn in the episode.
        engine_logprob_N: float32.
        version_N: int64, version of the weights that sampled it.
        advantage_N: float32.
        weight_N: float64; 0 in a dummy row.
    """

    ids_T: np.ndarray
    positions_3T: np.ndarray
    group_T: np.ndarray
    branch_T: np.ndarray
    segments: Segments
    images: tuple[str, ...]
    image_index: np.ndarray
    source_N: np.ndarray
    target_N: np.ndarray
    episode_N: np.ndarray
    turn_N: np.ndarray
    engine_logprob_N: np.ndarray
    version_N: np.ndarray
    advantage_N: np.ndarray
    weight_N: np.ndarray


def mrope_positions(
    ids: Sequence[int] | np.ndarray,
    grids: Iterable[tuple[int, int]],
    image_token: int,
) -> np.ndarray:
    """Return the (3, T) M-RoPE positions of a token list, counted from 0.

    Text counts up in all three rows. An image of h x w tokens at position p takes (p, p + row, p +
    column), and the text after it goes on at p + max(h, w) (Qwen2.5-VL, Sec. 2.1.2; the same for
    still images in Qwen3-VL).

    Args:
        ids: tokens with image placeholders expanded.
        grids: (height, width) in tokens of each image, in order.
        image_token: the placeholder.

    Raises:
        ValueError: the placeholders do not fit the grids.
    """
    ids_T = np.asarray(ids, dtype=np.int64)
    is_image_T = ids_T == image_token
    positions_3T = np.empty((3, len(ids_T)), dtype=np.int64)
    done = 0
    position = 0
    for height, width in grids:
        start, stop = _next_image(is_image_T, done, height, width)
        # The text before the image.
        positions_3T[:, done:start] = position + np.arange(start - done)
        position += start - done

        rows, columns = np.divmod(np.arange(height * width), width)
        times = np.zeros_like(rows)
        positions_3T[:, start:stop] = position + np.stack([times, rows, columns])
        position += max(height, width)
        done = stop

    if is_image_T[done:].any():
        count = int(is_image_T[done:].sum())
        raise ValueError(f"{count} image placeholder(s) without an image")
    positions_3T[:, done:] = position + np.arange(len(ids_T) - done)
    return positions_3T


def _next_image(is_image_T: np.ndarray, done: int, height: int, width: int) -> tuple[int, int]:
    """Start and stop of the first image after token `done`."""
    start = len(is_image_T)
    if is_image_T[done:].any():
        start = done + int(np.argmax(is_image_T[done:]))
    stop = start + height * width
    if stop > len(is_image_T) or not is_image_T[start:stop].all():
        raise ValueError(
            f"an image of {height} x {width} tokens has no matching placeholders after token {done}"
        )
    return start, stop


def branch(episode: Episode, advantages: Sequence[float], weight: float, number: int) -> Branch:
    """Return the episode after its first prompt; only completions of trainable turns are trained.

    Args:
        episode: a finished episode.
        advantages: one for each of its turns.
        weight: of each trained token in the loss.
        number: of the episode in the whole batch.
    """
    media: list[Media] = []
    trained: list[Trained] = []
    ids: list[np.ndarray] = []
    logprobs: list[np.ndarray] = []
    length = 0
    for index, turn in enumerate(episode.turns):
        if not turn.trainable:
            continue
        # The first prompt belongs to the tree.
        if trained:
            ids.append(array_of(turn.prompt_ids))
            length += len(turn.prompt_ids)
            media.extend(turn.media)
        logprobs.append(_logprobs(turn))
        ids.append(array_of(turn.completion_ids))
        start = length
        length += len(turn.completion_ids)
        trained.append(Trained(start, length, index, turn.version, advantages[index]))

    return Branch(
        ids_R=np.concatenate(ids, dtype=np.int32, casting="same_kind"),
        media=tuple(media),
        trained=tuple(trained),
        engine_logprob_N=np.concatenate(logprobs, dtype=np.float32, casting="same_kind"),
        weight=weight,
        episode=number,
    )


def _logprobs(turn: Turn) -> np.ndarray:
    """Return the log-probs of a completion; zeros for a demonstration, which has none."""
    count = len(turn.completion_ids)
    assert len(turn.logprobs) in (0, count), "a log-prob for each token"
    return array_of(turn.logprobs) if turn.logprobs else np.zeros(count)


def trees(
    group: Group,
    index: int,
    credit: Sequence[Sequence[float]],
    weights: Sequence[float],
    first: int,
) -> list[Tree]:
    """Return the trees of one group: a single one if all episodes start from the same prompt.

    FAILED episodes and episodes without a trained token are left out.

    Args:
        group: a group of finished episodes.
        index: of the group in the batch.
        credit: an advantage for each turn of each episode.
        weights: weight of each token in the loss, by episode.
        first: number of the group's first episode in the batch.
    """
    # First turns, each with the branches that begin with its prompt.
    found: list[tuple[Turn, list[Branch]]] = []
    for g, episode in enumerate(group.episodes):
        turns = [turn for turn in episode.turns if turn.trainable]
        is_trained = any(turn.completion_ids for turn in turns)
        if episode.end is End.FAILED or not is_trained:
            continue
        grown = branch(episode, credit[g], weights[g], first + g)
        for other, branches in found:
            if _same_prompt(other, turns[0]):
                branches.append(grown)
                break
        else:
            found.append((turns[0], [grown]))
    return [Tree(index, turn.prompt_ids, turn.media, tuple(grown)) for turn, grown in found]


def _same_prompt(one: Turn, other: Turn) -> bool:
    # A group's prompt is one object as a rule (`share_prompt`): no look at thousands of tokens.
    same_ids = one.prompt_ids is other.prompt_ids or one.prompt_ids == other.prompt_ids
    return same_ids and one.media == other.media


def share_prompt(episodes: Sequence[Episode]) -> tuple[Episode, ...]:
    """Return equal episodes whose equal first prompts are one object, which travels once."""
    shared: dict[tuple[Sequence[int], tuple[Media, ...]], Turn] = {}
    found: list[Episode] = []
    for episode in episodes:
        if episode.turns:
            first, *others = episode.turns
            known = shared.setdefault((first.prompt_ids, first.media), first)
            first = replace(first, prompt_ids=known.prompt_ids, media=known.media)
            episode = replace(episode, turns=(first, *others))
        found.append(episode)
    return tuple(found)


def split(tree: Tree, budget: int) -> list[Tree]:
    """Cut the tree between branches into parts of at most `budget` tokens, each with the prompt.

    The result is exact. A branch too long by itself becomes a part of its own.
    """
    if tree.tokens <= budget:
        return [tree]
    parts: list[list[Branch]] = [[]]
    used = len(tree.prompt_ids)
    for next_branch in tree.branches:
        length = len(next_branch.ids_R)
        if parts[-1] and used + length > budget:
            parts.append([])
            used = len(tree.prompt_ids)
        parts[-1].append(next_branch)
        used += length
    return [replace(tree, branches=tuple(part)) for part in parts]


def pack(parts: Sequence[Tree], budget: int) -> list[list[Tree]]:
    """Gather trees into rows of at most `budget` tokens: longest first, wherever one first fits."""
    rows: list[list[Tree]] = []
    for tree in sorted(parts, key=_tokens, reverse=True):
        for row in rows:
            used = sum(other.tokens for other in row)
            if used + tree.tokens <= budget:
                row.append(tree)
                break
        else:
            rows.append([tree])
    return rows


def balance(parts: Sequence[Tree], ranks: int) -> list[list[Tree]]:
    """Share trees out over `ranks` learners: longest first, each to the least loaded."""
    shares: list[list[Tree]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for tree in sorted(parts, key=_tokens, reverse=True):
        rank = loads.index(min(loads))
        shares[rank].append(tree)
        loads[rank] += tree.tokens
    return shares


def dummy(tree: Tree) -> Tree:
    """Return a short tree of weight 0 for a rank without work.

    ZeRO-3 gathers parameters on all ranks at once, so every rank must run the same number of rows.
    """
    shortest = min(tree.branches, key=lambda branch: len(branch.ids_R))
    return replace(tree, branches=(replace(shortest, weight=0.0),))


def deal(forest: Sequence[Tree], ranks: int, budget: int) -> list[list[list[Tree]]]:
    """Return the trees of each row of every rank, the same number of rows for each.

    `build_row` lays out the rows, on the ranks themselves. `forest` must not be empty.
    """
    packed = packed_rows(forest, ranks, budget)
    filler = dummy(min(forest, key=lambda tree: len(tree.prompt_ids)))
    most = max(len(rows) for rows in packed)
    return [rows + [[filler]] * (most - len(rows)) for rows in packed]


def packed_rows(forest: Sequence[Tree], ranks: int, budget: int) -> list[list[list[Tree]]]:
    """Return the trees of each row of every rank, as many rows as each needs."""
    parts: list[Tree] = []
    for tree in forest:
        parts.extend(split(tree, budget))
    return [pack(share, budget) for share in balance(parts, ranks)]


class Filling:
    """Trees that wait until every rank has a row's worth of them.

    What is handed on together depends on the trees and their order alone, never on the moment they
    come.
    """

    def __init__(self, ranks: int, budget: int) -> None:
        """Begin without any tree.

        Args:
            budget: tokens of a row.
        """
        self.ranks = ranks
        self.budget = budget
        self.waiting: list[Tree] = []

    def add(self, trees: Sequence[Tree]) -> list[list[Tree]]:
        """Take the trees of a group; return the forests that are ready, in order."""
        ready: list[list[Tree]] = []
        if self.waiting and not self._fit([*self.waiting, *trees]):
            ready.append(self.rest())
        self.waiting.extend(trees)
        # Ready as well if there is no room for another group like this one.
        if self.waiting and not self._fit([*self.waiting, *trees]):
            ready.append(self.rest())
        return ready

    def rest(self) -> list[Tree]:
        """Hand on what waits."""
        forest = self.waiting
        self.waiting = []
        return forest

    def _fit(self, forest: Sequence[Tree]) -> bool:
        """Return True if one row for each rank holds them."""
        packed = packed_rows(forest, self.ranks, self.budget)
        return all(len(rows) <= 1 for rows in packed)


def build_row(forest: Sequence[Tree], layout: ImageLayout) -> GroupBatch:
    """Return one row of the given trees, without padding."""
    row = _RowBuilder(layout)
    for number, tree in enumerate(forest):
        prompt_ids = array_of(tree.prompt_ids)
        prompt_start, prompt_stop = row.add(prompt_ids, tree.media, 0, number, 0)
        # All branches count their positions on from the prompt.
        after_prompt = int(row.positions[-1].max()) + 1
        spans = []
        for k, leaf in enumerate(tree.branches, 1):
            start, stop = row.add(leaf.ids_R, leaf.media, after_prompt, number, k)
            row.train(leaf, start, prompt_stop)
            spans.append((start, stop))
        row.segments.append((prompt_start, prompt_stop, tuple(spans)))
    return row.build()


class _RowBuilder:
    """The columns of a row, piece by piece."""

    def __init__(self, layout: ImageLayout) -> None:
        self.layout = layout
        self.length = 0
        self.segments: list[tuple[int, int, tuple[tuple[int, int], ...]]] = []
        self.digests: list[str] = []
        # One array for each prompt and branch.
        self.ids: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.group: list[np.ndarray] = []
        self.branch: list[np.ndarray] = []
        # One array for each branch.
        self.source: list[np.ndarray] = []
        self.target: list[np.ndarray] = []
        self.episode: list[np.ndarray] = []
        self.turn: list[np.ndarray] = []
        self.engine_logprob: list[np.ndarray] = []
        self.version: list[np.ndarray] = []
        self.advantage: list[np.ndarray] = []
        self.weight: list[np.ndarray] = []

    def add(
        self,
        ids_R: np.ndarray,
        media: Sequence[Media],
        first_position: int,
        group: int,
        branch: int,
    ) -> tuple[int, int]:
        """Append a prompt or a branch; return its start and stop in the row."""
        grids = [self.layout.grid(image) for image in media]
        positions_3R = mrope_positions(ids_R, grids, self.layout.token_id) + first_position
        self.ids.append(ids_R)
        self.positions.append(positions_3R)
        self.group.append(np.full(len(ids_R), group, dtype=np.int32))
        self.branch.append(np.full(len(ids_R), branch, dtype=np.int32))
        self.digests.extend(image.digest for image in media)
        start = self.length
        self.length += len(ids_R)
        return start, self.length

    def train(self, leaf: Branch, start: int, prompt_stop: int) -> None:
        """Append the trained tokens of the branch at `start`."""
        offset_N = leaf.offset_N()
        count = len(offset_N)
        # The last token of the prompt predicts the first token of every branch.
        before_N = start + offset_N - 1
        self.source.append(np.where(offset_N == 0, prompt_stop - 1, before_N))
        self.target.append(leaf.ids_R[offset_N])
        self.episode.append(np.full(count, leaf.episode))
        self.turn.append(leaf.each_N([part.turn for part in leaf.trained], np.int64))
        self.engine_logprob.append(leaf.engine_logprob_N)
        self.version.append(leaf.each_N([part.version for part in leaf.trained], np.int64))
        self.advantage.append(leaf.each_N([part.advantage for part in leaf.trained], np.float32))
        self.weight.append(np.full(count, leaf.weight))

    def build(self) -> GroupBatch:
        images = tuple(dict.fromkeys(self.digests))
        number_of = {digest: number for number, digest in enumerate(images)}
        image_index = [number_of[digest] for digest in self.digests]
        return GroupBatch(
            ids_T=np.concatenate(self.ids, dtype=np.int64),
            positions_3T=np.concatenate(self.positions, axis=1),
            group_T=np.concatenate(self.group),
            branch_T=np.concatenate(self.branch),
            segments=tuple(self.segments),
            images=images,
            image_index=np.array(image_index, dtype=np.int64),
            source_N=np.concatenate(self.source),
            target_N=np.concatenate(self.target, dtype=np.int64),
            episode_N=np.concatenate(self.episode),
            turn_N=np.concatenate(self.turn),
            engine_logprob_N=np.concatenate(self.engine_logprob),
            version_N=np.concatenate(self.version),
            advantage_N=np.concatenate(self.advantage),
            weight_N=np.concatenate(self.weight),
        )


def _tokens(tree: Tree) -> int:
    return tree.tokens
