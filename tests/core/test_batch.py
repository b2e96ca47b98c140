"""Rows of groups: positions, indices, packing. The numbers against the model are in tests/models/policy/test_policy.py."""

import numpy as np
import pytest

from core import batch, grpo
from core.types import End, Episode, Group, Media, Turn, View
from tests.models.tiny_qwen import ID, image_ids, random_group

LAYOUT = batch.ImageLayout(ID["<|image_pad|>"], 28)


def forest(seeds=(0, 1, 2), **kwargs):
    found = []
    first = 0
    for i, seed in enumerate(seeds):
        group, _ = random_group(seed, **kwargs)
        credit = grpo.credit(group, per_turn=False, std=True, eps=1e-6)
        found += batch.trees(group, i, credit, [0.5] * len(group.episodes), first)
        first += len(group.episodes)
    return found


def tokens_of(rows):
    """(episode, turn, target, advantage) of every trained token, order lost."""
    return sorted(
        (int(e), int(t), int(y), float(a))
        for row in rows
        for e, t, y, a, w in zip(
            row.episode_N, row.turn_N, row.target_N, row.advantage_N, row.weight_N, strict=True
        )
        if w
    )


def test_mrope_positions_of_text_image_text():
    ids = [1, 2, *[LAYOUT.token_id] * 6, 3]
    expected = [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    np.testing.assert_array_equal(batch.mrope_positions(ids, [(2, 3)], LAYOUT.token_id), expected)


@pytest.mark.parametrize("grids", [[], [(2, 2)], [(2, 3), (2, 3)], [(2, 4)]])
def test_placeholders_that_do_not_fit_the_images_are_an_error(grids):
    with pytest.raises(ValueError, match="placeholder"):
        batch.mrope_positions([1, *[LAYOUT.token_id] * 6, 3], grids, LAYOUT.token_id)


def test_every_trained_token_is_predicted_by_the_one_before_it_in_its_own_episode():
    (tree,) = forest((3,))
    row = batch.build_row([tree], LAYOUT)
    p1 = row.segments[0][1]
    for source, target, episode in zip(row.source_N, row.target_N, row.episode_N, strict=True):
        start, stop = row.segments[0][2][episode]
        following = start if source == p1 - 1 else source + 1
        assert start <= following < stop
        assert row.ids_T[following] == target
    assert (row.source_N == p1 - 1).sum() == len(tree.branches)  # the first token of each branch


def test_a_row_holds_each_image_once():
    row = batch.build_row(forest((3, 4)), LAYOUT)
    assert len(set(row.images)) == len(row.images)
    placeholders = (row.ids_T == ID["<|vision_start|>"]).sum()
    assert len(row.image_index) == placeholders > len(row.images) - 1
    assert row.groups == (0, 1)


def test_packing_and_splitting_lose_no_token():
    trees = forest((0, 1, 2, 3, 4))
    whole = tokens_of([batch.build_row(trees, LAYOUT)])
    for ranks, budget in ((1, 10**6), (1, 150), (2, 200), (3, 90)):
        rows = batch.rows_of_ranks(trees, ranks, budget, LAYOUT)
        assert len(rows) == ranks
        assert len({len(r) for r in rows}) == 1
        assert tokens_of([row for rank in rows for row in rank]) == whole


def test_rows_keep_the_token_budget():
    for rank in batch.rows_of_ranks(forest((0, 1, 2, 3, 4)), 2, 200, LAYOUT):
        assert all(len(row.ids_T) <= 200 for row in rank)
    parts = batch.split(forest((0,))[0], 40)  # a single branch may be longer than the budget
    assert len(parts) == 4
    assert all(len(p.branches) == 1 for p in parts)


def test_work_is_shared_out_evenly():
    trees = forest(range(12))
    loads = [sum(t.tokens for t in share) for share in batch.balance(trees, 3)]
    assert max(loads) - min(loads) <= max(t.tokens for t in trees)


def test_a_rank_without_work_gets_rows_of_weight_zero():
    trees = forest((0,))
    ranks = batch.rows_of_ranks(trees, 3, 10**6, LAYOUT)
    assert sorted(float(rank[0].weight_N.sum()) > 0 for rank in ranks) == [False, False, True]
    assert all(len(rank[0].images) for rank in ranks)  # the vision tower runs on all ranks


def test_failed_episodes_and_frozen_turns_never_reach_a_row():
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
