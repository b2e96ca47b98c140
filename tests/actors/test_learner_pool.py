"""The places of a learner's ranks."""

from __future__ import annotations

from actors.learner_pool import rank_places

HOSTS = [("a", 1), ("b", 2), ("a", 3)]


def test_ranks_are_numbered_on_each_node() -> None:
    places = rank_places(HOSTS, "cpu")
    assert [place.rank for place in places] == [0, 1, 2]
    assert [place.local_rank for place in places] == [0, 0, 1]
    assert [place.local_ranks for place in places] == [2, 1, 2]
    assert {place.master for place in places} == {("a", 1)}


def test_on_gpu_every_rank_sees_its_own_device_only() -> None:
    places = rank_places(HOSTS, "cuda")
    assert [place.rank for place in places] == [0, 1, 2]
    assert {(place.local_rank, place.local_ranks) for place in places} == {(0, 1)}


def test_deepspeed_finds_the_process_group_in_the_environment() -> None:
    last = rank_places(HOSTS, "cpu")[2]
    assert last.environment == {
        "RANK": "2",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }
