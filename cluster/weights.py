"""Weights of the policy as numbered versions, for any process of the cluster to pull.

The learner publishes a version into Ray's object store. A rollout actor pulls it on request, or
when it joins, so no process group has to be rebuilt when an actor comes or goes. With a GPU
backend a version names its senders instead (`actors.gpu_weights`).

The driver owns the payload: it outlives the rank that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cluster.refs import Handle, Ref
from core.flat import checksum, flatten


@dataclass(frozen=True)
class WeightVersion:
    """One version of the policy: its contents, and the place of its bytes.

    Attributes:
        version: number of its step; 0 is the policy before training.
        names: names of the tensors, as in `state_dict()`.
        dtypes: their types, such as "float32".
        shapes: their shapes.
        checksum: SHA-256 of the payload; empty with a GPU backend.
        payload: flat uint8 array in the object store (layout: `core.flat`); None with a GPU
            backend.
        senders: ranks of the learner, to send the bytes, with a GPU backend.
    """

    version: int
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    checksum: str
    payload: Ref[np.ndarray] | None
    senders: tuple[Handle[Any], ...] = ()


def describe(version: int, state: Mapping[str, torch.Tensor]) -> tuple[WeightVersion, np.ndarray]:
    """Return a version of a whole `state_dict()` without its payload, and the payload itself."""
    names, dtypes, shapes, flat = flatten(state)
    described = WeightVersion(version, names, dtypes, shapes, checksum(flat), payload=None)
    return described, flat
