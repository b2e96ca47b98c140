"""Learner ranks for tests: their configuration, a fresh start, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.learner import LearnerActor
from actors.learner_pool import LearnerPool
from cluster.refs import results
from cluster.weight_reader import WeightReader
from cluster.weights import WeightVersion
from configs.schema import Config
from core.flat import layout, tensor_checksums, unflatten

Weights = Mapping[str, torch.Tensor]


def config(
    policy_folder: Path | str,
    ranks: int = 1,
    stage: Any = 1,
    row_tokens: int = 4096,
    **learner: Any,
) -> Config:
    """Return the configuration of some ranks, with further settings of the section `learner`."""
    cfg = Config()
    cfg.policy.path = str(policy_folder)
    cfg.cluster.use_gpu = "no"
    cfg.rollout.temperature = 0.9
    cfg.learner.world_size = ranks
    cfg.learner.zero_stage = stage
    cfg.learner.row_tokens = row_tokens
    cfg.learner.lr = 1e-3
    cfg.learner.grad_clip = 0.25
    for name, value in learner.items():
        assert hasattr(cfg.learner, name)
        setattr(cfg.learner, name, value)
    return cfg


def restart(pools: Mapping[int, LearnerPool], cfg: Config) -> LearnerPool:
    """Give a running pool a fresh policy and another configuration."""
    pool = pools[cfg.learner.world_size]
    pool.cfg = cfg
    starting = []
    for rank, place in zip(pool.ranks, pool.places, strict=True):
        starting.append(rank.call(LearnerActor.start, cfg, "cpu", place, 10))
    results(starting)
    return pool


def flat_of(version: WeightVersion) -> np.ndarray:
    """Return a copy of a version's flat array."""
    held = WeightReader().open(version)
    assert held is not None
    flat = held.data().copy()
    held.close()
    return flat


def weights(pool: LearnerPool) -> dict[str, torch.Tensor]:
    """Return copies of the weights that a pool publishes."""
    version = pool.publish(3)
    assert version.version == 3
    flat = torch.from_numpy(flat_of(version))
    spans, _ = layout(version.dtypes, version.shapes)
    assert tensor_checksums(flat.numpy(), spans) == version.checksums

    found: dict[str, torch.Tensor] = {}
    for name, tensor in unflatten(flat, version.names, version.dtypes, version.shapes):
        found[name] = tensor.clone()
    return found


def distance(a: Weights, b: Weights) -> float:
    """Return the norm of a - b, relative to the norm of b."""
    assert a.keys() == b.keys()
    difference = 0.0
    total = 0.0
    for name, tensor in b.items():
        difference += float((a[name] - tensor).double().pow(2).sum())
        total += float(tensor.double().pow(2).sum())
    return (difference / total) ** 0.5
