"""Weights of the policy as numbered versions, for any process of the cluster to take.

The learner writes a version into memory that the engines of its machine map (`core.shared_file`);
other machines pull it through Ray's object store. A rollout actor takes it on request, or when it
joins, so no process group has to be rebuilt when an actor comes or goes. With a GPU backend a
version names its senders instead (`actors.gpu_weights`).

The driver holds the memory and owns what is in the store: both outlive the rank that made them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import ray
import torch
import xxhash

from cluster.refs import Handle, Ref
from core.flat import flatten, layout, tensor_checksums
from core.shared_file import Held, Place, hold

# What goes into the object store with a version.
Wanted = Literal["nothing", "full", "delta"]


@dataclass(frozen=True)
class Patch:
    """A piece of the flat array that changed, and the piece of a delta's payload that says how."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Delta:
    """What turns the bytes of a version into those of the next one (`core.delta`).

    Attributes:
        base, digest: `WeightVersion.digest` of the two.
        patches: the changed pieces.
        checksum: of the payload (`core.flat.tensor_checksum`).
        payload: their deltas, one after another, in the object store.
    """

    base: str
    digest: str
    patches: tuple[Patch, ...]
    checksum: str
    payload: Ref[np.ndarray] | None = None


@dataclass(frozen=True)
class Stored:
    """A version in the object store: a full one, and all deltas since.

    Attributes:
        full: flat array of the full one.
        digest: `WeightVersion.digest` of the full one.
    """

    full: Ref[np.ndarray]
    digest: str
    deltas: tuple[Delta, ...] = ()

    def followed_by(self, delta: Delta) -> Stored:
        """Return the next version."""
        newest = self.deltas[-1].digest if self.deltas else self.digest
        assert delta.base == newest, "each delta begins where the one before ended"
        return replace(self, deltas=(*self.deltas, delta))

    def missing(self, digest: str) -> tuple[Ref[np.ndarray] | None, tuple[Delta, ...]]:
        """Return what somebody with the bytes of this digest needs: full ones, or None; deltas."""
        known = [self.digest, *(delta.digest for delta in self.deltas)]
        if digest not in known:
            return self.full, self.deltas
        return None, self.deltas[known.index(digest) :]


@dataclass(frozen=True)
class WeightVersion:
    """One version of the policy: its contents, and the places of its bytes.

    Attributes:
        version: number of its step; 0 is the policy before training.
        names: names of the tensors, as in `state_dict()`.
        dtypes: their types, such as "float32".
        shapes: their shapes.
        checksums: of each tensor (`core.flat.tensor_checksum`); empty with a GPU backend.
        place: flat array (layout: `core.flat`) in the memory of the learner's machine.
        stored: the same bytes in the object store, for other machines.
        delta: on the way from the learner: its payload is not the flat array but this delta.
        senders: ranks of the learner, to send the bytes, with a GPU backend.
        held: in the driver: keeps the contents of `place`.
    """

    version: int
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    checksums: tuple[str, ...] = ()
    place: Place | None = None
    stored: Stored | None = None
    delta: Delta | None = None
    senders: tuple[Handle[Any], ...] = ()
    held: Held | None = None

    @property
    def digest(self) -> str:
        """The name of its bytes."""
        return xxhash.xxh3_128_hexdigest("".join(self.checksums).encode())

    def with_full(self, payload: Ref[np.ndarray]) -> WeightVersion:
        """Return it with its flat array in the object store."""
        return replace(self, stored=Stored(payload, self.digest))

    def kept(self) -> WeightVersion:
        """Return it with its memory held by this process, if that is on this machine."""
        if self.place is None or not self.place.is_here:
            return self
        held = hold(self.place)
        # Its writer died before.
        if held is None:
            return replace(self, place=None)
        return replace(self, place=held.place, held=held)

    def for_all_machines(self) -> WeightVersion:
        """Return it with its bytes in the object store if the cluster has several nodes."""
        if self.stored is not None or self.held is None or not several_nodes():
            return self
        return self.with_full(ray.put(self.held.data()))


def several_nodes() -> bool:
    """Return whether the joined cluster has more than one node now."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return len(alive) > 1


def describe(version: int, state: Mapping[str, torch.Tensor]) -> tuple[WeightVersion, np.ndarray]:
    """Return a version of a whole `state_dict()` without its bytes, and its flat array."""
    names, dtypes, shapes, flat = flatten(state)
    spans, _ = layout(dtypes, shapes)
    checksums = tensor_checksums(flat, spans)
    return WeightVersion(version, names, dtypes, shapes, checksums), flat
