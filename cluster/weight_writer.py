"""Versions of the weights in the learner's memory, written once and mapped by the engines."""

from __future__ import annotations

from concurrent.futures import Future, wait
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
    unflatten,
)
from core.shared_file import SharedFile

# Bytes of a piece that one thread compares at a time; a multiple of every element's size.
DELTA_BYTES = 16 << 20


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


class Draft:
    """A version that is being written. Threads copy pieces of tensors and make their checksums."""

    def __init__(self, writer: WeightWriter, buffer: Buffer, described: WeightVersion) -> None:
        self.writer = writer
        self.before = writer.newest
        self.buffer = buffer
        self.described = described
        flat = buffer.file.data
        spans, _ = layout(described.dtypes, described.shapes)
        self.spans: dict[str, slice] = {}
        for name, (start, stop) in zip(described.names, spans, strict=True):
            self.spans[name] = slice(start, stop)
        self.tensors = dict(
            unflatten(
                torch.from_numpy(flat),
                described.names,
                described.dtypes,
                described.shapes,
            )
        )
        self.threads = hashing_threads()
        # Digests of the pieces of each tensor that was put.
        self.writing: dict[str, list[Future[bytes]]] = {}

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Begin to copy a tensor, from any device, to its place.

        It must not change before `settle` or `finish` has returned.
        """
        self.buffer.checksums.pop(name, None)
        target = self.buffer.file.data[self.spans[name]]
        source = plain_bytes(tensor, self.tensors[name].dtype)
        if source is None:
            self.tensors[name].copy_(tensor)
        self.writing[name] = []
        for piece in pieces(len(target)):
            if source is None:
                digest = self.threads.submit(piece_digest, target[piece])
            else:
                digest = self.threads.submit(copy_piece, target[piece], source[piece])
            self.writing[name].append(digest)

    def settle(self) -> None:
        """Wait until all tensors that were put are copied."""
        for digests in self.writing.values():
            wait(digests)

    def finish(self, version: int) -> WeightVersion:
        """End the version. Tensors that were not put are those of the version before."""
        for name in self.described.names:
            if name not in self.writing:
                self._keep(name)
        for name, digests in self.writing.items():
            self.buffer.checksums[name] = checksum_of_pieces(each.result() for each in digests)
        self.threads.shutdown()
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
        span = self.spans[name]
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
        for name, tensor in self.tensors.items():
            if self.buffer.checksums[name] == self.before.checksums[name]:
                continue
            span = self.spans[name]
            width = min(tensor.element_size(), 8)
            for start in range(span.start, span.stop, DELTA_BYTES):
                changed.append((start, min(start + DELTA_BYTES, span.stop), width))
        return changed

    def _encode(self, piece: tuple[int, int, int]) -> bytes:
        assert self.before is not None
        start, stop, width = piece
        old = self.before.file.data[start:stop]
        return deltas.encode(old, self.buffer.file.data[start:stop], width)
