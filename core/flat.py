"""Named tensors laid out in one flat array of bytes, and their checksums.

Weights travel from learner to rollout actors in this layout: a contiguous array can be placed in
shared memory or in an object store and be read there without a copy. The layout is in core
because both ends need it, `cluster.weight_writer` and `models.engine.weight_transfer`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import xxhash

# Bytes. A tensor may be viewed in place only at a multiple of its element size.
ALIGN = 64

# Two threads or so read memory as fast as it goes.
MAX_THREADS = 8

# Bytes of a piece, which has a digest of its own. It fits into the cache.
PIECE_BYTES = 4 << 20

Names = tuple[str, ...]
Shapes = tuple[tuple[int, ...], ...]


def layout(
    dtypes: Sequence[str],
    shapes: Sequence[Sequence[int]],
) -> tuple[list[tuple[int, int]], int]:
    """Return the byte ranges [start, stop) of the tensors, in order, and the size of the array."""
    spans = []
    start = 0
    for dtype, shape in zip(dtypes, shapes, strict=True):
        stop = start + math.prod(shape) * getattr(torch, dtype).itemsize
        spans.append((start, stop))
        start = stop + (-stop) % ALIGN
    return spans, start


def flatten(
    state: Mapping[str, torch.Tensor],
) -> tuple[Names, Names, Shapes, np.ndarray]:
    """Copy tensors into one array.

    Args:
        state: for example a whole `state_dict()`. Not `named_parameters()`: that leaves a tied
            `lm_head` out.

    Returns:
        names, dtypes (as in "float32"), shapes, and the uint8 array.
    """
    names = tuple(state)
    dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    shapes = tuple(tuple(tensor.shape) for tensor in state.values())
    spans, size = layout(dtypes, shapes)
    flat = torch.zeros(size, dtype=torch.uint8)
    for tensor, (start, stop) in zip(state.values(), spans, strict=True):
        place = flat[start:stop].view(tensor.dtype).view(tensor.shape)
        place.copy_(tensor.detach())
    return names, dtypes, shapes, flat.numpy()


def unflatten(
    flat: torch.Tensor,
    names: Sequence[str],
    dtypes: Sequence[str],
    shapes: Sequence[Sequence[int]],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield views of the named tensors in a flat uint8 tensor, without a copy.

    Raises:
        ValueError: the size of the array does not fit dtypes and shapes.
    """
    spans, size = layout(dtypes, shapes)
    if flat.numel() != size:
        raise ValueError(
            f"weights of {flat.numel()} bytes where names, types and shapes ask for {size}"
        )
    for name, dtype, shape, (start, stop) in zip(names, dtypes, shapes, spans, strict=True):
        tensor = flat[start:stop].view(getattr(torch, dtype))
        yield name, tensor.view(tuple(shape))


def checksum(flat: np.ndarray) -> str:
    """Return the SHA-256 of the bytes, in hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(flat).data).hexdigest()


def pieces(size: int) -> list[slice]:
    """Return the pieces of so many bytes; one of none has one piece."""
    return [slice(start, start + PIECE_BYTES) for start in range(0, max(size, 1), PIECE_BYTES)]


def piece_digest(data: np.ndarray) -> bytes:
    """Return the 128 bits of XXH3 of a piece.

    It is as fast as memory, and finds damage; it is no protection against forgery.
    """
    return xxhash.xxh3_128_digest(data.data)


def copy_piece(target: np.ndarray, source: np.ndarray) -> bytes:
    """Copy a piece, and return its digest: the bytes come from memory once for both."""
    target[:] = source
    return piece_digest(source)


def checksum_of_pieces(digests: Iterable[bytes]) -> str:
    """Return the checksum of a tensor from the digests of its pieces, in hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(b"".join(digests))


def tensor_checksum(data: np.ndarray) -> str:
    """Return the checksum of a tensor's bytes."""
    return checksum_of_pieces(piece_digest(data[piece]) for piece in pieces(len(data)))


def thread_count() -> int:
    """Return how many threads copy and hash best together."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)))


def hashing_threads() -> ThreadPoolExecutor:
    """Return threads for copies and checksums: numpy and xxhash let others run meanwhile."""
    return ThreadPoolExecutor(thread_count())


def tensor_checksums(flat: np.ndarray, spans: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Return the checksums of tensors in a flat array, in order."""
    counts: list[int] = []
    parts: list[slice] = []
    for start, stop in spans:
        found = pieces(stop - start)
        counts.append(len(found))
        for piece in found:
            parts.append(slice(start + piece.start, min(start + piece.stop, stop)))
    digests = [b""] * len(parts)
    # Each thread takes the next part: handing parts over would cost as much as their digests.
    numbered = enumerate(parts)
    with hashing_threads() as threads:
        jobs = []
        for _ in range(min(thread_count(), len(parts))):
            jobs.append(threads.submit(_put_digests, flat, numbered, digests))
        for job in jobs:
            job.result()
    in_order = iter(digests)
    return tuple(checksum_of_pieces(itertools.islice(in_order, count)) for count in counts)


def _put_digests(
    flat: np.ndarray, numbered: Iterator[tuple[int, slice]], digests: list[bytes]
) -> None:
    for number, part in numbered:
        digests[number] = piece_digest(flat[part])
