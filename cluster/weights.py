"""Weights of the policy as numbered versions that any process of the cluster can pull.

The learner publishes a version into Ray's object store; whoever plays pulls it when told to, or when it joins. There is
no process group to rebuild when an actor comes or goes. With a GPU backend a version names its senders instead
(`actors.gpu_weights`). Knows no model and no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch

from core.flat import checksum, flatten, unflatten

__all__ = ["WeightVersion", "checksum", "flatten", "publish", "unflatten"]


@dataclass(frozen=True)
class WeightVersion:
    """One version of the policy: what is in it, and where its bytes are (layout: `core.flat`)."""

    version: int  # 0 is the policy that the run began with
    names: tuple[str, ...]
    dtypes: tuple[str, ...]  # e.g. "float32"
    shapes: tuple[tuple[int, ...], ...]
    checksum: str  # SHA-256 of the payload; empty when a GPU backend carries the bytes: they do not pass through us
    payload: Any  # Ray ObjectRef of a flat uint8 array; None when a GPU backend carries the bytes
    senders: tuple[Any, ...] = ()  # the learner's ranks (Ray actors), which then carry them


def publish(version: int, state: Mapping[str, torch.Tensor]) -> WeightVersion:
    """Puts a whole `state_dict()` into the object store."""
    names, dtypes, shapes, flat = flatten(state)
    return WeightVersion(version, names, dtypes, shapes, checksum(flat), ray.put(flat))
