"""Versions of the weights in the learner's memory, written once and mapped by the engines."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import torch

from cluster.weights import Delta, Patch, WeightVersion
from core import delta as deltas
from core.flat import (
    Names,
    Shapes,
    checksum_of_pieces,
    copy_piece,
    hashing_threads,
    layout,
    piece_digest,
    pieces,
    tensor_checksum,
    thread_count,
)
from core.shared_file import SharedFile

# Bytes of a piece that one thread compares at a time; a multiple of every element's size.
DELTA_BYTES = 16 << 20
# Bytes that wait before a thread begins with them.
BATCH_BYTES = 64 << 20


@dataclass
class Buffer:
    """One shared file, and the checksums of the tensors in it."""

    file: SharedFile
    checksums: dict[str, str]


class WeightWriter:
    """Writes versions on the learner's first rank: one while engines may read the one before.

    There are two buffers as a rule, and another one for each older version that somebody holds.
    """

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.newest: Buffer | None = None

    def draft(self, names: Names, dtypes: Names, shapes: Shapes) -> Draft:
        """Begin the next version."""
        _, size = layout(dtypes, shapes)
        buffer = self._free(size)
        return Draft(self, buffer, WeightVersion(0, names, dtypes, shapes))

    def _free(self, size: int) -> Buffer:
        """Return a buffer that nobody reads, ready to be written; forget others like it."""
        held: list[Buffer] = []
        free: list[Buffer] = []
        for buffer in self.buffers:
            if buffer is self.newest:
                held.append(buffer)
            elif buffer.file.begin():
                free.append(buffer)
            else:
                held.append(buffer)
        fitting = [buffer for buffer in free if len(buffer.file.data) == size]
        chosen = fitting[0] if fitting else self._new(size)
        self.buffers = [*held, chosen]
        return chosen

    def _new(self, size: int) -> Buffer:
        file = SharedFile(size)
        assert file.begin(), "nobody else knows it yet"
        return Buffer(file, {})


def plain_bytes(tensor: torch.Tensor, dtype: torch.dtype) -> np.ndarray | None:
    """Return the bytes of a tensor as they lie in memory; None if they must be converted first."""
    if tensor.device.type != "cpu" or tensor.dtype != dtype or not tensor.is_contiguous():
        return None
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor of a version lies among its bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    span: slice


@dataclass(frozen=True)
class Piece:
    """A piece of a tensor on its way into a version.

    Attributes:
        source: None if its bytes are in their place already.
        digests: of all pieces of the tensor.
        number: of this one among them.
    """

    target: np.ndarray
    source: np.ndarray | None
    digests: list[bytes]
    number: int

    def put(self) -> None:
        """Bring the bytes to their place, and note their digest."""
        if self.source is None:
            self.digests[self.number] = piece_digest(self.target)
        else:
            self.digests[self.number] = copy_piece(self.target, self.source)


class Draft:
    """A version that is being written. Threads copy pieces of tensors and make their checksums."""

    def __init__(self, writer: WeightWriter, buffer: Buffer, described: WeightVersion) -> None:
        self.writer = writer
        self.before = writer.newest
        self.buffer = buffer
        self.described = described
        self.places: dict[str, TensorPlace] = {}
        spans, _ = layout(described.dtypes, described.shapes)
        found = zip(described.names, described.dtypes, described.shapes, spans, strict=True)
        for name, dtype, shape, (start, stop) in found:
            self.places[name] = TensorPlace(getattr(torch, dtype), shape, slice(start, stop))
        self.threads = hashing_threads()
        # Tensors of this version, and the digests of their pieces so far.
        self.digests: dict[str, list[bytes]] = {}
        # Each thread takes the next one: handing over would cost as much as a small piece.
        self.waiting: deque[Piece] = deque()
        self.waiting_bytes = 0
        self.jobs: list[Future[None]] = []

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Begin to copy a tensor, from any device, to its place.

        It must not change before `settle` or `finish` has returned.
        """
        assert name not in self.digests, f"{name} was put before"
        self.buffer.checksums.pop(name, None)
        place = self.places[name]
        target = self.buffer.file.data[place.span]
        source = plain_bytes(tensor, place.dtype)
        if source is None:
            torch.from_numpy(target).view(place.dtype).view(place.shape).copy_(tensor)
        parts = pieces(len(target))
        digests = [b""] * len(parts)
        for number, part in enumerate(parts):
            of_source = None if source is None else source[part]
            self.waiting.append(Piece(target[part], of_source, digests, number))
        self.digests[name] = digests
        self.waiting_bytes += len(target)
        if self.waiting_bytes >= BATCH_BYTES:
            self._start()

    def _start(self) -> None:
        """Let one more thread work."""
        self.jobs.append(self.threads.submit(self._work))
        self.waiting_bytes = 0

    def _work(self) -> None:
        """Put waiting pieces until none is left."""
        while True:
            try:
                piece = self.waiting.popleft()
            except IndexError:
                return
            piece.put()

    def settle(self) -> None:
        """Wait until all tensors that were put are copied."""
        for _ in range(min(thread_count(), len(self.waiting))):
            self._start()
        for job in self.jobs:
            job.result()
        self.jobs = []

    def finish(self, version: int) -> WeightVersion:
        """End the version. Tensors that were not put are those of the version before."""
        for name in self.described.names:
            if name not in self.digests:
                self._keep(name)
        self.settle()
        self.threads.shutdown()
        for name, digests in self.digests.items():
            self.buffer.checksums[name] = checksum_of_pieces(digests)
        self.writer.newest = self.buffer
        checksums = self._checksums(self.buffer)
        place = self.buffer.file.finish()
        return replace(self.described, version=version, checksums=checksums, place=place)

    def _keep(self, name: str) -> None:
        """Bring a tensor of the version before into this buffer, unless it is there already."""
        assert self.before is not None, "the first version holds every tensor"
        checksum = self.before.checksums[name]
        if self.buffer.checksums.get(name) == checksum:
            return
        span = self.places[name].span
        self.buffer.file.data[span] = self.before.file.data[span]
        self.buffer.checksums[name] = checksum

    def delta(self, finished: WeightVersion) -> tuple[Delta, np.ndarray] | None:
        """Return how the finished version differs from the one before, and the payload.

        None if there is none before, or if the whole version is no longer than that.
        """
        if self.before is None or len(self.before.file.data) != len(self.buffer.file.data):
            return None
        with hashing_threads() as threads:
            found = list(threads.map(self._encode, self._pieces()))
        patches = []
        first = 0
        for (start, stop, _), encoded in zip(self._pieces(), found, strict=True):
            patches.append(Patch(start, stop, first, first + len(encoded)))
            first += len(encoded)
        if first >= len(self.buffer.file.data):
            return None
        payload = np.frombuffer(b"".join(found), dtype=np.uint8)
        base = replace(finished, checksums=self._checksums(self.before)).digest
        checksum = tensor_checksum(payload)
        return Delta(base, finished.digest, tuple(patches), checksum), payload

    def _checksums(self, buffer: Buffer) -> tuple[str, ...]:
        return tuple(buffer.checksums[name] for name in self.described.names)

    def _pieces(self) -> list[tuple[int, int, int]]:
        """Return start, stop and bytes of an element of all pieces that may have changed."""
        assert self.before is not None
        changed = []
        for name, place in self.places.items():
            if self.buffer.checksums[name] == self.before.checksums[name]:
                continue
            span = place.span
            width = min(place.dtype.itemsize, 8)
            for start in range(span.start, span.stop, DELTA_BYTES):
                changed.append((start, min(start + DELTA_BYTES, span.stop), width))
        return changed

    def _encode(self, piece: tuple[int, int, int]) -> bytes:
        assert self.before is not None
        start, stop, width = piece
        old = self.before.file.data[start:stop]
        return deltas.encode(old, self.buffer.file.data[start:stop], width)
