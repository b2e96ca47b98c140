"""Weights published as versions arrive bit for bit, and damage is noticed."""

from __future__ import annotations

import pytest
import torch

from cluster.weights import describe
from core.flat import checksum, flatten, layout, tensor_checksums, unflatten


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(3, 5, generator=generator).to(
            torch.bfloat16
        ),  # 30 bytes: the next must be aligned
        "b.bias": torch.randn(7, generator=generator),
        "c.transposed": torch.randn(4, 6, generator=generator).T,
        "d.scalar": torch.tensor(3, dtype=torch.int64),
        "e.empty": torch.zeros(0, 4),
    }


def test_flatten_unflatten_bit_equal() -> None:
    names, dtypes, shapes, flat = flatten(state())
    back = dict(unflatten(torch.from_numpy(flat), names, dtypes, shapes))
    assert list(back) == list(state())
    for name, tensor in state().items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_wrong_size_is_refused() -> None:
    names, dtypes, shapes, flat = flatten(state())
    with pytest.raises(ValueError, match="bytes where"):
        list(unflatten(torch.from_numpy(flat[:-64].copy()), names, dtypes, shapes))


def test_checksum_sees_one_bit() -> None:
    flat = flatten(state())[3]
    spans, _ = layout(*flatten(state())[1:3])
    whole = checksum(flat)
    of_tensors = tensor_checksums(flat, spans)
    # The second tensor.
    flat[70] ^= 1
    assert checksum(flat) != whole
    changed = tensor_checksums(flat, spans)
    assert [a == b for a, b in zip(changed, of_tensors, strict=True)] == [True, False, *[True] * 3]


def test_described_weights_are_whole() -> None:
    weights, flat = describe(3, state())
    assert weights.version == 3
    spans, _ = layout(weights.dtypes, weights.shapes)
    assert tensor_checksums(flat, spans) == weights.checksums
    back = dict(
        unflatten(torch.from_numpy(flat.copy()), weights.names, weights.dtypes, weights.shapes)
    )
    assert torch.equal(back["c.transposed"], state()["c.transposed"])
