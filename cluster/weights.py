"""Weights of the policy as numbered versions that any process of the cluster can pull.

The learner publishes a version into Ray's object store; whoever plays pulls it when told to, or when it joins. There is
no process group to rebuild when an actor comes or goes. Knows no model and no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from core.flat import checksum, flatten, unflatten

__all__ = ["WeightVersion", "checksum", "fetch", "flatten", "publish", "unflatten"]


@dataclass(frozen=True)
class WeightVersion:
    """One version of the policy: what is in it, and where its bytes are (layout: `core.flat`)."""

    version: int  # 0 is the policy that the run began with
    names: tuple[str, ...]
    dtypes: tuple[str, ...]  # e.g. "float32"
    shapes: tuple[tuple[int, ...], ...]
    checksum: str  # SHA-256 of the payload
    payload: Any  # Ray ObjectRef of a flat uint8 array; None when a GPU backend carries the bytes


def publish(version: int, state: Mapping[str, torch.Tensor]) -> WeightVersion:
    """Puts a whole `state_dict()` into the object store."""
    names, dtypes, shapes, flat = flatten(state)
    return WeightVersion(version, names, dtypes, shapes, checksum(flat), ray.put(flat))


def fetch(weights: WeightVersion) -> np.ndarray:
    """The flat uint8 array, read-only and not copied where the object store is on this node.

    Raises:
        ValueError: the bytes are not those that were published.
    """
    flat: np.ndarray = ray.get(weights.payload)
    if checksum(flat) != weights.checksum:
        raise ValueError(f"weights of version {weights.version} are damaged: their checksum is not {weights.checksum}")
    return flat
