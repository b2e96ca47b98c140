"""Versions in shared memory: written once, read by whoever comes, whoever dies."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cluster.weight_reader import WeightReader, sha256
from cluster.weight_writer import WeightWriter
from cluster.weights import Stored, WeightVersion
from core.flat import checksum, flatten

State = dict[str, torch.Tensor]


def state(seed: int) -> State:
    """Two tensors that learn and a frozen one, with gaps between them."""
    frozen = torch.arange(5, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 5, generator=generator),
        "frozen": frozen,
        "t": torch.randn(4, 6, generator=generator).T,
    }


def write(writer: WeightWriter, version: int, tensors: State, *, frozen: bool) -> WeightVersion:
    names, dtypes, shapes, _ = flatten(tensors)
    draft = writer.draft(names, dtypes, shapes)
    for name, tensor in tensors.items():
        if frozen or name != "frozen":
            draft.put(name, tensor)
    return draft.finish(version).kept()


def sent(version: WeightVersion) -> WeightVersion:
    """Return a version as an actor gets it."""
    copy: WeightVersion = pickle.loads(pickle.dumps(version))
    assert copy.held is None
    return copy


def test_versions_are_whole_and_frozen_tensors_are_put_once() -> None:
    writer = WeightWriter()
    for number in range(5):
        version = write(writer, number, state(number), frozen=number == 0)
        assert version.version == number
        # The same bytes, gaps included, as an array made at once.
        assert sha256(version) == checksum(flatten(state(number))[3])
        held = WeightReader().open(sent(version))
        assert held is not None
        held.close()
    assert len(writer.buffers) == 2


def test_versions_that_somebody_holds_stay() -> None:
    writer = WeightWriter()
    versions = []
    for number in range(4):
        versions.append(write(writer, number, state(number), frozen=number == 0))
    for number, version in enumerate(versions):
        assert sha256(version) == checksum(flatten(state(number))[3])
    assert len(writer.buffers) == 4

    del version, versions
    write(writer, 4, state(4), frozen=False)
    newest = write(writer, 5, state(5), frozen=False)
    assert len(writer.buffers) == 2
    assert sha256(newest) == checksum(flatten(state(5))[3])


def test_an_unfinished_version_does_no_harm() -> None:
    writer = WeightWriter()
    version = write(writer, 0, state(0), frozen=True)
    write(writer, 1, state(1), frozen=False)
    names, dtypes, shapes, _ = flatten(state(2))
    del version
    writer.draft(names, dtypes, shapes).put("frozen", torch.zeros(5))
    version = write(writer, 2, state(2), frozen=False)
    assert sha256(version) == checksum(flatten(state(2))[3])


def test_an_old_version_is_superseded_and_the_newest_outlives_its_writer() -> None:
    writer = WeightWriter()
    old = sent(write(writer, 0, state(0), frozen=True))
    newest = write(writer, 1, state(1), frozen=False)
    assert WeightReader().open(old) is None
    del writer
    assert sha256(newest) == checksum(flatten(state(1))[3])
    assert WeightReader().open(sent(newest)) is not None


def test_memory_of_another_machine_is_one_clear_error() -> None:
    described = WeightVersion(3, ("a",), ("float32",), ((1,),))
    with pytest.raises(ValueError, match="version 3 are in the memory of another machine"):
        WeightReader().open(described)


class Store:
    """Versions for another machine, as learner and driver make them; arrays are their own refs.

    Deltas follow the first version, which is a full one.
    """

    def __init__(self) -> None:
        self.writer = WeightWriter()
        self.stored: Stored | None = None
        self.fetched: list[int] = []

    def fetch(self, payload: np.ndarray) -> np.ndarray:
        self.fetched.append(payload.nbytes)
        return payload

    def write(self, version: int, tensors: State) -> WeightVersion:
        names, dtypes, shapes, _ = flatten(tensors)
        draft = self.writer.draft(names, dtypes, shapes)
        for name, tensor in tensors.items():
            draft.put(name, tensor)
        written = draft.finish(version)
        found = draft.delta(written)
        if self.stored is None or found is None:
            self.stored = Stored(ref(draft.buffer.file.data.copy()), written.digest)
        else:
            delta, payload = found
            self.stored = self.stored.followed_by(replace(delta, payload=ref(payload)))
        return replace(written, place=None, stored=self.stored)


def ref(payload: np.ndarray) -> Any:
    return payload


def steps(count: int) -> list[State]:
    """A policy in bfloat16 and its next versions: small steps of one tensor, the others frozen."""
    generator = torch.Generator().manual_seed(0)
    master = torch.randn(400, 300, generator=generator) * 0.02
    frozen = torch.randn(100_000, generator=generator)
    found = []
    for _ in range(count):
        found.append({"frozen": frozen, "learns": master.bfloat16()})
        master = master + 1e-6 * torch.randn(master.shape, generator=generator).sign()
    return found


def hash_of(reader: WeightReader, version: WeightVersion) -> str:
    held = reader.open(version)
    assert held is not None
    found = checksum(held.data())
    held.close()
    return found


def test_whoever_takes_part_gets_the_same_bytes_from_deltas() -> None:
    """One engine takes every version, one misses three, one joins late."""
    store = Store()
    always = WeightReader(store.fetch)
    seldom = WeightReader(store.fetch)
    states = steps(5)
    size = 0
    for number, tensors in enumerate(states):
        version = store.write(number, tensors)
        right = checksum(flatten(tensors)[3])
        store.fetched.clear()
        assert hash_of(always, version) == right
        size = size or sum(store.fetched)
        if number > 0:
            # The frozen tensor is not sent again, and little of the other one.
            assert sum(store.fetched) < 0.05 * states[0]["learns"].nbytes
        if number in (0, 4):
            assert hash_of(seldom, version) == right
    store.fetched.clear()
    assert hash_of(WeightReader(store.fetch), version) == right
    assert store.fetched[0] == size, "a newcomer gets a full version first"
    assert len(store.fetched) == 5
    assert hash_of(always, version) == right, "the same one again"


def test_an_engine_of_unknown_version_gets_a_full_one() -> None:
    first, second = Store(), Store()
    reader = WeightReader(second.fetch)
    hash_of(reader, first.write(0, state(0)))
    second.write(0, state(1))
    version = second.write(1, state(2))
    second.fetched.clear()
    assert hash_of(reader, version) == checksum(flatten(state(2))[3])
    assert len(second.fetched) == 2, "the full one, and a delta"


def test_a_damaged_delta_is_one_clear_error_and_then_a_full_version_comes() -> None:
    store = Store()
    states = steps(2)
    reader = WeightReader(store.fetch)
    hash_of(reader, store.write(0, states[0]))
    version = store.write(1, states[1])
    assert version.stored is not None
    [delta] = version.stored.deltas
    payload = np.array(delta.payload)
    payload[5] ^= 1
    damaged = replace(delta, payload=ref(payload))
    with pytest.raises(ValueError, match="a delta from the object store is damaged in pid "):
        reader.open(with_deltas(version, [damaged]))
    assert hash_of(reader, version) == checksum(flatten(states[1])[3])
    assert len(store.fetched) == 4


def with_deltas(version: WeightVersion, deltas: Sequence[Any]) -> WeightVersion:
    assert version.stored is not None
    return replace(version, stored=replace(version.stored, deltas=tuple(deltas)))
