"""Engines of one machine verify weights once for all of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from cluster.weight_writer import WeightWriter
from cluster.weights import WeightVersion
from core.shared_file import hold
from models.engine.weight_transfer import DAMAGE, MappedFiles, SharedUpdate, verified

NAMES = ("a", "b")


class Machine:
    """The memory of a machine with a learner and engines."""

    def __init__(self) -> None:
        self.writer = WeightWriter()
        self.versions = 0

    def written(self, *values: float) -> WeightVersion:
        """Write a version of tensors that are full of these values."""
        draft = self.writer.draft(NAMES, ("float32", "float32"), ((100,), (200,)))
        draft.put("a", torch.full((100,), values[0]))
        draft.put("b", torch.full((200,), values[1]))
        self.versions += 1
        return draft.finish(self.versions)

    def damage(self) -> None:
        """Change a byte of the second tensor of the newest version."""
        assert self.writer.newest is not None
        self.writer.newest.file.data[-100] ^= 1

    def take(self, version: WeightVersion, *changed: str) -> dict[str, torch.Tensor]:
        """Return what a new engine finds of the changed tensors."""
        assert version.place is not None
        held = hold(version.place)
        assert held is not None
        shapes = [list(shape) for shape in version.shapes]
        update = SharedUpdate(
            list(version.names),
            list(version.dtypes),
            shapes,
            held.place.path,
            list(version.checksums),
            "an engine",
        )
        try:
            return verified(update, changed, MappedFiles())
        finally:
            held.close()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of tensors that engines will have hashed at a time."""
    import models.engine.weight_transfer as module

    numbers: list[int] = []
    plain = module.tensor_checksums

    def counted(flat: np.ndarray, spans: list[tuple[int, int]]) -> tuple[str, ...]:
        numbers.append(len(spans))
        return plain(flat, spans)

    monkeypatch.setattr(module, "tensor_checksums", counted)
    return numbers


def test_the_first_engine_verifies_for_the_others(machine: Machine, hashed: list[int]) -> None:
    version = machine.written(1, 2)
    for changed in (("a",), NAMES, NAMES):
        tensors = machine.take(version, *changed)
        assert tensors["a"].tolist() == [1.0] * 100
        assert tensors["b"].tolist() == [2.0] * 200
    assert hashed == [1, 1, 0]


def test_every_version_is_verified_anew(machine: Machine, hashed: list[int]) -> None:
    """Also where its tensors are those that were in the same memory before."""
    for _ in range(4):
        machine.take(machine.written(1, 2), *NAMES)
    assert len(machine.writer.buffers) == 2
    assert hashed == [2] * 4

    version = machine.written(1, 2)
    machine.damage()
    with pytest.raises(ValueError, match=DAMAGE):
        machine.take(version, *NAMES)


def test_damage_is_no_news_for_others(machine: Machine) -> None:
    """Each engine says it of itself, and the good tensors beside it help nobody."""
    version = machine.written(1, 2)
    machine.damage()
    for _ in range(2):
        with pytest.raises(ValueError, match=re.escape("'b' is damaged in an engine")):
            machine.take(version, *NAMES)
    assert machine.take(version, "a")["a"].tolist() == [1.0] * 100
