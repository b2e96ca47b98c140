"""A tiny policy, learner ranks as processes and a batch for them, shared by the tests of the learner."""

import dataclasses

import pytest
import ray
import torch
from transformers import AutoModelForImageTextToText

from actors.learner_pool import LearnerPool
from cluster.placement import place
from models.policy.pixels import Pixels
from tests.actors.learners import config
from tests.models.tiny_qwen import banned_ids, build, random_group, reference


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("learner") / "policy")


@pytest.fixture(scope="module")
def learner_pools(policy_folder, ray_env):
    """One pool of one rank and one of two, as processes; `restart` gives them a fresh policy and configuration."""
    cfgs = {n: config(policy_folder, n) for n in (1, 2)}
    found = {n: LearnerPool(cfg, place(cfg), total_updates=10) for n, cfg in cfgs.items()}
    yield found
    for pool in found.values():
        pool.close()


@pytest.fixture(scope="module")
def learner_batch(policy_folder):
    """Five groups whose engine log-probs are those of the policy, and their pixels."""
    pairs = [random_group(seed) for seed in range(5)]
    media = {k: v for _, table in pairs for k, v in table.items()}
    model = AutoModelForImageTextToText.from_pretrained(policy_folder, dtype=torch.float32)
    with torch.no_grad():
        found = reference(
            model, Pixels(policy_folder), [g for g, _ in pairs], media, 0.9, banned_ids()
        )
    groups = []
    number = 0
    for group, _ in pairs:
        episodes = []
        for episode in group.episodes:
            turns = []
            k = 0
            for turn in episode.turns:
                values = tuple(
                    float(found[number, k + j][0]) for j in range(len(turn.completion_ids))
                )
                turns.append(dataclasses.replace(turn, logprobs=values))
                k += len(values)
            episodes.append(dataclasses.replace(episode, turns=tuple(turns)))
            number += 1
        groups.append(dataclasses.replace(group, episodes=tuple(episodes)))
    return groups, [ray.put(table) if ray.is_initialized() else table for _, table in pairs], media
