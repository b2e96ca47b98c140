"""Mixing several data sets: probabilities worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from data.mixing import by_temperature, epochs_of, shares


def test_probabilities() -> None:
    assert shares([3, 1]).tolist() == [0.75, 0.25]
    assert by_temperature([900, 100], 1.0) == pytest.approx([0.9, 0.1])
    # 900 ** 0.5 : 100 ** 0.5 is 30 : 10.
    assert by_temperature([900, 100], 2.0) == pytest.approx([0.75, 0.25])
    assert by_temperature([900, 100], np.inf) == pytest.approx([0.5, 0.5])
    # A small temperature does not overflow.
    assert by_temperature([10**9, 1], 0.01).tolist() == [1.0, 0.0]
    assert epochs_of(1000, [300, 100], [3, 1]) == pytest.approx([2.5, 2.5])


@pytest.mark.parametrize(
    "weights",
    [
        [],
        [0, 0],
        [1, -1],
        [float("nan"), 1],
        [float("inf"), 1],
    ],
)
def test_wrong_weights(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="mixing weights"):
        shares(weights)


def test_wrong_sizes_and_temperatures() -> None:
    with pytest.raises(ValueError, match="temperature 0"):
        by_temperature([1, 2], 0)
    with pytest.raises(ValueError, match="at least one"):
        by_temperature([1, 0])
