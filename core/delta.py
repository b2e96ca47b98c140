"""Lossless differences between two versions of an array, as bytes.

One optimizer step changes few of the bits of a weight in a short format such as bfloat16. There are
two forms: the places and values of the changed elements, or all elements, old xor new. Either way
the bytes of the elements are sorted by significance before they are compressed, because those of
one significance are alike.
"""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa

# zstd's fastest: the slower ones gain a few per cent here.
CODEC = pa.Codec("zstd", compression_level=1)

SPARSE = 0
DENSE = 1

# Up to this share of changed elements the sparse form is the shorter one, as measured for 2 and 4
# bytes.
SPARSE_SHARE = 0.5

# Form, bytes of an element, bytes of a distance, number of elements.
HEADER = struct.Struct("<BBBQ")


def encode(old: np.ndarray, new: np.ndarray, width: int) -> bytes:
    """Return what turns the old bytes into the new ones.

    Args:
        old, new: uint8 arrays of one length.
        width: bytes of an element: 1, 2, 4 or 8.
    """
    unsigned = f"<u{width}"
    xor = old.view(unsigned) ^ new.view(unsigned)
    places = np.flatnonzero(xor)
    if len(places) <= SPARSE_SHARE * len(xor):
        return _sparse(xor, places, width)
    return HEADER.pack(DENSE, width, 0, len(xor)) + _compressed(xor)


def apply(data: np.ndarray, delta: np.ndarray) -> None:
    """Turn the old bytes, in place, into the new ones."""
    packed = delta.data
    form, width, distance_width, count = HEADER.unpack_from(packed)
    elements = data.view(f"<u{width}")
    body = packed[HEADER.size :]
    if form == DENSE:
        elements ^= _expanded(body, count, width)
        return
    [split] = struct.unpack_from("<Q", body)
    body = body[8:]
    distances = _expanded(body[:split], count, distance_width)
    places = np.cumsum(distances, dtype=np.int64)
    elements[places] ^= _expanded(body[split:], count, width)


def _sparse(xor: np.ndarray, places: np.ndarray, width: int) -> bytes:
    distances = np.diff(places, prepend=0)
    longest = int(distances.max(initial=0))
    distance_width = next(size for size in (1, 2, 4, 8) if longest < 1 << 8 * size)
    first = _compressed(distances.astype(f"<u{distance_width}"))
    second = _compressed(xor[places])
    header = HEADER.pack(SPARSE, width, distance_width, len(places))
    return header + struct.pack("<Q", len(first)) + first + second


def _compressed(elements: np.ndarray) -> bytes:
    """Compress elements, sorted by the significance of their bytes."""
    planes = elements.view(np.uint8).reshape(-1, elements.itemsize).T
    return CODEC.compress(np.ascontiguousarray(planes), asbytes=True)


def _expanded(packed: memoryview, count: int, width: int) -> np.ndarray:
    size = count * width
    if size == 0:
        return np.zeros(0, dtype=f"<u{width}")
    flat = np.frombuffer(CODEC.decompress(packed, decompressed_size=size), dtype=np.uint8)
    elements = np.ascontiguousarray(flat.reshape(width, count).T)
    return elements.reshape(-1).view(f"<u{width}")
