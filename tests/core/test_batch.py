"""Rows of groups: positions, indices, packing.

The numbers against the model are in tests/models/policy/test_policy.py.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from core import batch, grpo
from core.batch import GroupBatch, Tree
from core.types import End, Episode, Group, Media, Turn, View
from tests.models.tiny_qwen import ID, image_ids, random_group

LAYOUT = batch.ImageLayout(ID["<|image_pad|>"], 28)


def forest(seeds: Iterable[int] = (0, 1, 2)) -> list[Tree]:
    found: list[Tree] = []
    first = 0
    for index, seed in enumerate(seeds):
        group, _ = random_group(seed)
        credit = grpo.credit(group, per_turn=False, std=True, eps=1e-6)
        weights = [0.5] * len(group.episodes)
        found += batch.trees(group, index, credit, weights, first)
        first += len(group.episodes)
    return found


def rows_of_ranks(trees: Sequence[Tree], ranks: int, budget: int) -> list[list[GroupBatch]]:
    """Return the rows of every rank, laid out."""
    found: list[list[GroupBatch]] = []
    for rows in batch.deal(trees, ranks, budget):
        found.append([batch.build_row(row, LAYOUT) for row in rows])
    return found


def tokens_of(rows: Sequence[GroupBatch]) -> list[tuple[int, int, int, float]]:
    """(episode, turn, target, advantage) of every trained token, in sorted order."""
    tokens: list[tuple[int, int, int, float]] = []
    for row in rows:
        trained = row.weight_N != 0
        columns = (row.episode_N, row.turn_N, row.target_N, row.advantage_N)
        tokens += zip(*(column[trained].tolist() for column in columns), strict=True)
    return sorted(tokens)


def test_mrope_positions_of_text_image_text() -> None:
    ids = [1, 2, *[LAYOUT.token_id] * 6, 3]
    expected = [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    np.testing.assert_array_equal(batch.mrope_positions(ids, [(2, 3)], LAYOUT.token_id), expected)


@pytest.mark.parametrize("grids", [[], [(2, 2)], [(2, 3), (2, 3)], [(2, 4)]])
def test_placeholders_that_do_not_fit_the_images_are_an_error(grids: list[tuple[int, int]]) -> None:
    ids = [1, *[LAYOUT.token_id] * 6, 3]
    with pytest.raises(ValueError, match="placeholder"):
        batch.mrope_positions(ids, grids, LAYOUT.token_id)


def test_every_trained_token_is_predicted_by_the_one_before_it_in_its_own_episode() -> None:
    (tree,) = forest((3,))
    row = batch.build_row([tree], LAYOUT)
    ((_, prompt_stop, spans),) = row.segments
    end_of_prompt = prompt_stop - 1
    for source, target, episode in zip(row.source_N, row.target_N, row.episode_N, strict=True):
        start, stop = spans[episode]
        following = start if source == end_of_prompt else source + 1
        assert start <= following < stop
        assert row.ids_T[following] == target
    # Once for each branch: its first token.
    assert (row.source_N == end_of_prompt).sum() == len(tree.branches)


def test_a_row_holds_each_image_once() -> None:
    row = batch.build_row(forest((3, 4)), LAYOUT)
    assert len(set(row.images)) == len(row.images)
    images_in_text = (row.ids_T == ID["<|vision_start|>"]).sum()
    assert len(row.image_index) == images_in_text
    assert images_in_text > len(row.images) - 1


@pytest.mark.parametrize(("ranks", "budget"), [(1, 10**6), (1, 150), (2, 200), (3, 90)])
def test_packing_and_splitting_lose_no_token(ranks: int, budget: int) -> None:
    trees = forest((0, 1, 2, 3, 4))
    rows_of_rank = rows_of_ranks(trees, ranks, budget)
    assert len(rows_of_rank) == ranks
    assert len({len(rows) for rows in rows_of_rank}) == 1
    all_rows = [row for rows in rows_of_rank for row in rows]
    assert tokens_of(all_rows) == tokens_of([batch.build_row(trees, LAYOUT)])


def filled(trees: Sequence[Tree], ranks: int, budget: int) -> list[list[Tree]]:
    """Return what is handed on as the trees come one by one, then the rest."""
    filling = batch.Filling(ranks, budget)
    forests: list[list[Tree]] = []
    for tree in trees:
        forests += filling.add([tree])
    rest = filling.rest()
    return [*forests, rest] if rest else forests


@pytest.mark.parametrize(("ranks", "budget"), [(1, 10**6), (1, 300), (2, 200), (3, 90)])
def test_trees_that_come_one_by_one_are_handed_on_in_order(ranks: int, budget: int) -> None:
    trees = forest(range(12))
    forests = filled(trees, ranks, budget)
    assert list(itertools.chain.from_iterable(forests)) == trees
    assert (len(forests) == 1) == (budget == 10**6)
    for part in forests:
        [first, *others] = rows_of_ranks(part, ranks, budget)
        # More rows than one are those of a single tree that is too long for it.
        assert len(first) == 1 or len(part) <= ranks
        assert all(len(rows) == len(first) for rows in others)


def test_trees_wait_for_a_row_of_every_rank() -> None:
    (tree,) = forest((0,))
    filling = batch.Filling(2, 2 * tree.tokens + 1)
    handed_on = [len(filling.add([tree])) for _ in range(8)]
    assert handed_on == [0, 0, 0, 1, 0, 0, 0, 1]
    assert filling.rest() == []


def test_rows_keep_the_token_budget() -> None:
    for rows in rows_of_ranks(forest((0, 1, 2, 3, 4)), 2, 200):
        for row in rows:
            assert len(row.ids_T) <= 200


def test_a_branch_beyond_the_budget_is_a_part_of_its_own() -> None:
    (tree,) = forest((0,))
    parts = batch.split(tree, 40)
    assert [len(part.branches) for part in parts] == [1, 1, 1, 1]


def test_work_is_shared_out_evenly() -> None:
    trees = forest(range(12))
    loads = [sum(tree.tokens for tree in share) for share in batch.balance(trees, 3)]
    assert max(loads) - min(loads) <= max(tree.tokens for tree in trees)


def test_a_rank_without_work_gets_rows_of_weight_zero() -> None:
    rows_of_rank = rows_of_ranks(forest((0,)), 3, 10**6)
    first_rows = [rows[0] for rows in rows_of_rank]
    assert sorted(float(row.weight_N.sum()) > 0 for row in first_rows) == [False, False, True]
    # The vision tower runs on all ranks.
    for row in first_rows:
        assert len(row.images)


def test_failed_episodes_and_frozen_turns_never_reach_a_row() -> None:
    prompt = tuple(image_ids(28, 28))
    frozen = Turn((1, 2), (7, 7), (-1.0, -1.0), "", (), True, 0, trainable=False)
    good = Turn(prompt, (5, 6), (-1.0, -2.0), "", (Media("a", View(0, 28, 28)),), True, 0)
    episodes = (
        Episode("s", (frozen, good), End.DONE),
        Episode("s", (good,), End.FAILED),
        Episode("s", (), End.DONE),
    )
    group = Group("s", episodes, (None,) * 3, (1.0, 1.0, 1.0))
    (tree,) = batch.trees(group, 0, [(1.0, 1.0), (1.0,), ()], [1.0] * 3, 0)
    row = batch.build_row([tree], LAYOUT)
    assert row.ids_T.tolist() == [*prompt, 5, 6]
    assert row.turn_N.tolist() == [1, 1]
    assert row.engine_logprob_N.tolist() == [-1.0, -2.0]


def test_equal_first_prompts_become_one_object() -> None:
    media = (Media("a", View(0, 28, 28)),)
    others = (Media("b", View(1, 28, 28)),)
    second = Turn((4,), (5,), (-1.0,), "", (), True, 0)

    def episode(prompt: tuple[int, ...], shown: tuple[Media, ...]) -> Episode:
        return Episode("s", (Turn(prompt, (6,), (-1.0,), "", shown, True, 0), second), End.DONE)

    # The same tokens about other images, as two videos with one question have them.
    played = [
        episode((1, 2), media),
        episode((1, 2), others),
        Episode("s", (), End.FAILED),
        episode((1, 2), media),
        episode((1, 3), media),
    ]
    shared = batch.share_prompt(played)
    assert shared == tuple(played)
    first, about_others, _, again, different = shared
    assert first.turns[0].prompt_ids is again.turns[0].prompt_ids
    assert first.turns[0].media is again.turns[0].media
    assert about_others.turns[0].media == others
    assert different.turns[0].prompt_ids == (1, 3)
    # Only those that begin alike are one tree.
    group = Group("s", shared, (None,) * 5, (1.0,) * 5)
    trees = batch.trees(group, 0, [(1.0, 1.0)] * 5, [1.0] * 5, 0)
    assert [len(tree.branches) for tree in trees] == [2, 1, 1]
