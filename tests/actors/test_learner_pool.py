"""Where the ranks of a learner are."""

from actors.learner_pool import rank_places


def test_ranks_are_numbered_on_each_node():
    found = rank_places([("a", 1), ("b", 2), ("a", 3)], "cpu")
    assert [(p.rank, p.local_rank, p.local_ranks, p.master) for p in found] == [
        (0, 0, 2, ("a", 1)),
        (1, 0, 1, ("a", 1)),
        (2, 1, 2, ("a", 1)),
    ]
