"""Mixing several data sets: probabilities by hand, and draws that follow from seed and step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.mixing import by_temperature, draws, epochs_of, shares


def test_probabilities() -> None:
    assert shares([3, 1]).tolist() == [0.75, 0.25]
    assert by_temperature([900, 100], 1.0) == pytest.approx([0.9, 0.1])
    assert by_temperature([900, 100], 2.0) == pytest.approx([0.75, 0.25])  # 30 : 10
    assert by_temperature([900, 100], np.inf) == pytest.approx([0.5, 0.5])
    assert by_temperature([10**9, 1], 0.01).tolist() == [1.0, 0.0]  # no overflow
    assert epochs_of(1000, [300, 100], [3, 1]) == pytest.approx([2.5, 2.5])


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [float("nan"), 1], [float("inf"), 1]])
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="mixing weights"):
        shares(weights)


def test_sizes_and_temperatures_that_are_none() -> None:
    with pytest.raises(ValueError, match="temperature 0"):
        by_temperature([1, 2], 0)
    with pytest.raises(ValueError, match="at least one"):
        by_temperature([1, 0])
    with pytest.raises(ValueError, match="an empty one has a weight"):
        draws(1, 4, [5, 0], [1, 1], seed=0)


SETS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=4)


@given(
    SETS.filter(lambda sets: any(weight for _, weight in sets)),
    st.integers(1, 7),
    st.integers(0, 10),
)
@settings(max_examples=60, deadline=None)
def test_steps_are_pieces_of_one_sequence_in_shuffled_epochs(
    sets: list[tuple[int, int]], count: int, seed: int
) -> None:
    sizes = [s for s, _ in sets]
    weights = [float(w) for _, w in sets]
    whole = draws(1, 8 * count, sizes, weights, seed)
    assert [
        pair for step in range(1, 9) for pair in draws(step, count, sizes, weights, seed)
    ] == whole
    for data_set, size in enumerate(sizes):
        drawn = [sample for d, sample in whole if d == data_set]
        assert not drawn or weights[data_set] > 0
        for start in range(0, len(drawn), size):
            epoch = drawn[start : start + size]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(size))


def test_data_sets_are_drawn_by_their_weight_and_differently_by_seed() -> None:
    many = draws(1, 20_000, [50, 7, 3], [5, 4, 1], seed=3)
    counts = Counter(data_set for data_set, _ in many)
    assert [counts[d] / 20_000 for d in range(3)] == pytest.approx([0.5, 0.4, 0.1], abs=0.012)
    assert draws(1, 20, [50, 7, 3], [5, 4, 1], seed=4) != many[:20]
