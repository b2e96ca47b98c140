"""Named tensors laid out in one flat array of bytes, and its checksum.

Weights travel from learner to rollout actors in this layout: one contiguous array can be placed in shared memory or in
an object store and be read there without a copy. This file knows no transport.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

ALIGN = 64  # bytes; a tensor may be viewed in place only at a multiple of its element size


def layout(
    dtypes: Sequence[str], shapes: Sequence[Sequence[int]]
) -> tuple[list[tuple[int, int]], int]:
    """Byte ranges [start, stop) of the tensors, in order, and the size of the whole array."""
    spans = []
    at = 0
    for dtype, shape in zip(dtypes, shapes, strict=True):
        stop = at + math.prod(shape) * getattr(torch, dtype).itemsize
        spans.append((at, stop))
        at = -(-stop // ALIGN) * ALIGN
    return spans, at


def flatten(
    state: Mapping[str, torch.Tensor],
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[int, ...], ...], np.ndarray]:
    """Copies tensors into one array.

    Args:
        state: e.g. a whole `state_dict()`. Not `named_parameters()`, which leaves a tied `lm_head` out.

    Returns:
        names, dtypes (as in "float32"), shapes, and the uint8 array.
    """
    names = tuple(state)
    dtypes = tuple(str(t.dtype).removeprefix("torch.") for t in state.values())
    shapes = tuple(tuple(t.shape) for t in state.values())
    spans, size = layout(dtypes, shapes)
    flat = torch.zeros(size, dtype=torch.uint8)
    for tensor, (start, stop) in zip(state.values(), spans, strict=True):
        flat[start:stop].view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())
    return names, dtypes, shapes, flat.numpy()


def unflatten(
    flat: torch.Tensor, names: Sequence[str], dtypes: Sequence[str], shapes: Sequence[Sequence[int]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Views of the named tensors in a flat uint8 tensor, without a copy.

    Raises:
        ValueError: the array does not have the size that dtypes and shapes ask for.
    """
    spans, size = layout(dtypes, shapes)
    if flat.numel() != size:
        raise ValueError(
            f"weights of {flat.numel()} bytes where names, types and shapes ask for {size}"
        )
    for name, dtype, shape, (start, stop) in zip(names, dtypes, shapes, spans, strict=True):
        yield name, flat[start:stop].view(getattr(torch, dtype)).view(tuple(shape))


def checksum(flat: np.ndarray) -> str:
    """SHA-256 of the bytes, in hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(flat).data).hexdigest()
