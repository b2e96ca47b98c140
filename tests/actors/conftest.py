"""A tiny policy, ranks of a learner as processes, a batch for them, and a pool of small actors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from actors.learner_pool import LearnerPool
from cluster.placement import place
from core.types import Group, MediaTable
from models.policy.pixels import Pixels
from tests.actors.doublers import DoublerPool
from tests.actors.learners import config
from tests.models.tiny_qwen import banned_ids, build, random_group, reference

# Groups, the pixels of each, and all pixels as one table.
Batch = tuple[list[Group], list[MediaTable], MediaTable]


@pytest.fixture(scope="package")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("learner") / "policy")


@pytest.fixture(scope="package")
def learner_pools(policy_folder: Path, ray_env: dict[str, str]) -> Iterator[dict[int, LearnerPool]]:
    """A pool of one rank and one of two, by their size, for all files about real ranks.

    Three processes that import DeepSpeed take most of a minute; `restart` gives them another policy
    within seconds.
    """
    pools: dict[int, LearnerPool] = {}
    for ranks in (1, 2):
        cfg = config(policy_folder, ranks)
        pools[ranks] = LearnerPool(cfg, place(cfg), total_updates=10)
    yield pools
    for pool in pools.values():
        pool.close()


@pytest.fixture(scope="package")
def learner_batch(policy_folder: Path, ray_env: dict[str, str]) -> Batch:
    """Five groups. Their engine log-probs are those of the policy."""
    random_groups: list[Group] = []
    tables: list[MediaTable] = []
    pixels: MediaTable = {}
    for seed in range(5):
        group, table = random_group(seed)
        random_groups.append(group)
        tables.append(table)
        pixels |= table

    model = AutoModelForImageTextToText.from_pretrained(policy_folder, dtype=torch.float32)
    with torch.no_grad():
        found = reference(model, Pixels(policy_folder), random_groups, pixels, 0.9, banned_ids())

    # `found` holds log-prob and entropy by the numbers of the episode and of its trained token.
    groups: list[Group] = []
    number = 0
    for group in random_groups:
        episodes = []
        for episode in group.episodes:
            turns = []
            token = 0
            for turn in episode.turns:
                logprobs: list[float] = []
                for _ in turn.completion_ids:
                    logprobs.append(float(found[number, token][0]))
                    token += 1
                turns.append(replace(turn, logprobs=tuple(logprobs)))
            episodes.append(replace(episode, turns=tuple(turns)))
            number += 1
        groups.append(replace(group, episodes=tuple(episodes)))

    return groups, tables, pixels


@pytest.fixture
def pool(ray_env: dict[str, str]) -> Iterator[DoublerPool]:
    pool = DoublerPool(2, attempts=2)
    yield pool
    pool.close()
