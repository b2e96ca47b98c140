"""The bytes of weight versions, for one engine or for the driver."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from cluster.weights import Delta, Stored, WeightVersion
from core import delta as deltas
from core.flat import checksum, tensor_checksum
from core.shared_file import Held, SharedFile, hold


class WeightReader:
    """Finds a version in this machine's memory, or brings it there."""

    def __init__(self, fetch: Callable[[Any], np.ndarray] = ray.get) -> None:
        """Start without any bytes.

        Args:
            fetch: returns the value of a reference to the object store.
        """
        self.fetch = fetch
        # What came through the object store, and its `WeightVersion.digest`; empty if unknown.
        self.file: SharedFile | None = None
        self.digest = ""

    def open(self, weights: WeightVersion) -> Held | None:
        """Hold the bytes of a version; None if a newer one has taken its place.

        Raises:
            ValueError: it is in the memory of another machine only, or a delta is damaged.
        """
        if weights.place is not None and weights.place.is_here:
            held = hold(weights.place)
            if held is not None or weights.stored is None:
                return held
        if weights.stored is None:
            raise ValueError(
                f"weights of version {weights.version} are in the memory of another machine or "
                "container; set cluster.weight_path=full"
            )
        return self._bring(weights, weights.stored)

    def forget(self) -> None:
        """Ask for a full version next time, because the last one was damaged."""
        self.digest = ""

    def _bring(self, weights: WeightVersion, stored: Stored) -> Held:
        """Bring the file from the version in it, if that is known, to this one."""
        full, steps = stored.missing(self.digest)
        self.digest = ""
        if full is not None:
            self._copy(self.fetch(full))
        assert self.file is not None, "its version was known"
        for step in steps:
            self._apply(step, self.file.data)
        held = hold(self.file.finish())
        assert held is not None, "nobody else writes it"
        self.digest = weights.digest
        return held

    def _copy(self, flat: np.ndarray) -> None:
        if self.file is None or len(self.file.data) != len(flat):
            self.file = SharedFile(len(flat))
        self._begin()
        self.file.data[:] = flat

    def _begin(self) -> None:
        assert self.file is not None
        assert self.file.begin(), "the engine has let go of the version before"

    def _apply(self, step: Delta, data: np.ndarray) -> None:
        payload = self.fetch(step.payload)
        if tensor_checksum(payload) != step.checksum:
            raise ValueError(
                "weights: a delta from the object store is damaged in "
                f"pid {os.getpid()} on {socket.gethostname()}: nothing was loaded"
            )
        self._begin()
        for patch in step.patches:
            deltas.apply(data[patch.start : patch.stop], payload[patch.first : patch.last])


def sha256(weights: WeightVersion) -> str:
    """Return the SHA-256 of a version's flat array, in hexadecimal digits."""
    held = WeightReader().open(weights)
    assert held is not None, "the driver holds its version"
    try:
        return checksum(held.data())
    finally:
        held.close()
