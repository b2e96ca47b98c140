"""Learner ranks for tests: their configuration, a fresh start, and their weights."""

import numpy as np
import ray
import torch

from actors.learner import LearnerActor
from actors.learner_pool import LearnerPool
from cluster.refs import results
from configs.schema import Config
from core.flat import checksum, unflatten


def config(policy_folder, ranks=1, stage=1, row_tokens=4096, **learner) -> Config:
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


def restart(learner_pools, cfg) -> LearnerPool:
    pool = learner_pools[cfg.learner.world_size]
    pool.cfg = cfg
    results(
        [
            rank.call(LearnerActor.start, cfg, "cpu", place, 10)
            for rank, place in zip(pool.ranks, pool.places, strict=True)
        ]
    )
    return pool


def weights(pool) -> dict[str, torch.Tensor]:
    version = pool.publish(3)
    assert version.version == 3
    flat = torch.from_numpy(np.array(ray.get(version.payload)))
    assert checksum(flat.numpy()) == version.checksum
    return {n: t.clone() for n, t in unflatten(flat, version.names, version.dtypes, version.shapes)}


def distance(a, b) -> float:
    assert a.keys() == b.keys()
    total = sum(float(t.double().pow(2).sum()) for t in b.values())
    return (sum(float((a[n] - b[n]).double().pow(2).sum()) for n in b) / total) ** 0.5
