"""Deltas are bit-exact for any bytes, and short where little has changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.delta import apply, encode


def changed(old: np.ndarray, new: np.ndarray, width: int) -> int:
    """Apply the delta of two arrays, check the result, and return the delta's size."""
    delta = encode(old, new, width)
    data = old.copy()
    apply(data, np.frombuffer(delta, dtype=np.uint8))
    assert np.array_equal(data, new)
    return len(delta)


@given(st.integers(0, 300), st.sampled_from([1, 2, 4, 8]), st.floats(0, 1), st.integers(0, 99))
def test_any_bytes_come_back(count: int, width: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 256, count * width, dtype=np.uint8)
    new = np.where(rng.random(len(old)) < share, rng.integers(0, 256, len(old)), old)
    changed(old, new.astype(np.uint8), width)


@pytest.mark.parametrize("distance", [200, 60_000, 100_000])
def test_far_places_come_back(distance: int) -> None:
    old = np.zeros(400_000, dtype=np.uint8)
    new = old.copy()
    new[:: 2 * distance] = 1
    assert changed(old, new, 2) < 100


def test_a_small_step_in_bfloat16_is_a_small_delta() -> None:
    """Weights of usual size, after a step of Adam at a learning rate of 1e-6."""
    generator = torch.Generator().manual_seed(0)
    master = torch.randn(1 << 20, generator=generator) * 0.02
    step = 1e-6 * torch.randn(master.shape, generator=generator).sign()
    old = master.bfloat16().view(torch.uint8).numpy()
    new = (master + step).bfloat16().view(torch.uint8).numpy()
    assert 0 < changed(old, new, 2) < 0.05 * len(old)
    assert changed(old, old, 2) < 50
