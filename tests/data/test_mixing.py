"""Mixing several data sets: shares worked out by hand, epochs, and positions to go on from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from core.types import Sample, Video
from data.mixing import (
    Mix,
    MixedSet,
    Position,
    _order,
    by_temperature,
    draw,
    draw_beside,
    epochs_of,
    make_mix,
    shares,
)


def made(name: str, count: int, weight: float = 0.0, repeats: int = 1) -> MixedSet:
    video = Video("v", "nowhere", ("0",), 4, 4)
    samples = [Sample(f"{name}/{number}", video, "", ()) for number in range(count)]
    return MixedSet(name, samples, weight, repeats)


def drawn(mix: Mix, counts: list[int]) -> list[str]:
    """Return the uids of some steps of these sizes, one after the other."""
    position = Position()
    uids = []
    for count in counts:
        samples, position = draw(mix, position, count)
        uids += [sample.uid for sample in samples]
    return uids


def of_set(name: str, uids: list[str]) -> list[str]:
    return [uid for uid in uids if uid.startswith(f"{name}/")]


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


def test_shares_of_a_mix() -> None:
    by_weight = [made("a", 5, weight=3), made("b", 50, weight=1)]
    assert make_mix(by_weight, seed=0).shares_D.tolist() == [0.75, 0.25]
    # Repeats multiply a size: 2 * 50 and 300.
    by_size = [made("a", 50, repeats=2), made("b", 300)]
    assert make_mix(by_size, seed=0).shares_D == pytest.approx([0.25, 0.75])
    assert make_mix(by_size, seed=0, temperature=np.inf).shares_D == pytest.approx([0.5, 0.5])


def test_sets_are_drawn_by_their_shares() -> None:
    mix = make_mix([made("a", 40, weight=0.5), made("b", 4, weight=0.3), made("c", 9, 0.2)], 7)
    counts = Counter(uid[0] for uid in drawn(mix, [4000]))
    # Three standard deviations of a binomial: 3 * sqrt(4000 * .25) is 95.
    assert counts["a"] == pytest.approx(2000, abs=95)
    assert counts["b"] == pytest.approx(1200, abs=95)
    assert counts["c"] == pytest.approx(800, abs=95)


def test_each_set_runs_through_permuted_epochs_of_its_own() -> None:
    mix = make_mix([made("a", 6), made("b", 4)], seed=3)
    uids = of_set("a", drawn(mix, [200]))
    epochs = [tuple(uids[start : start + 6]) for start in range(0, 60, 6)]
    for epoch in epochs:
        assert sorted(epoch) == [f"a/{number}" for number in range(6)]
    assert len(set(epochs)) > 5


def test_repeats_use_each_sample_so_often_in_an_epoch() -> None:
    mix = make_mix([made("a", 4, repeats=3), made("b", 4)], seed=1)
    uids = of_set("a", drawn(mix, [100]))
    assert set(Counter(uids[:12]).values()) == {3}
    assert set(Counter(of_set("b", drawn(mix, [100]))[:4]).values()) == {1}


def test_draws_do_not_depend_on_the_size_of_a_step() -> None:
    mix = make_mix([made("a", 6), made("b", 4), made("c", 3)], seed=3)
    assert drawn(mix, [60]) == drawn(mix, [7, 1, 12, 40])
    assert drawn(make_mix(mix.sets, seed=4), [60]) != drawn(mix, [60])


def test_a_stored_position_goes_on_as_if_nothing_had_stopped() -> None:
    mix = make_mix([made("a", 6), made("b", 4)], seed=3)
    _, stored = draw(mix, Position(), 13)
    assert sum(stored.used.values()) == 13
    again = Position(dict(stored.used), dict(stored.aside))
    rest = [sample.uid for sample in draw(mix, again, 9)[0]]
    assert rest == drawn(mix, [22])[13:]


def test_a_single_set_is_one_permutation_for_each_epoch() -> None:
    mix = make_mix([made("", 5)], seed=9)
    expected = []
    for epoch in range(3):
        for place in np.random.default_rng([9, epoch]).permutation(5):
            expected.append(mix.sets[0].samples[place].uid)
    assert drawn(mix, [8, 7]) == expected


def test_an_epoch_is_permuted_once_not_at_every_step() -> None:
    mix = make_mix([made("a", 40), made("b", 20)], seed=7)
    _order.cache_clear()
    uids = drawn(mix, [4] * 14)
    assert len(set(uids)) == len(uids), "the first epoch of both sets"
    assert _order.cache_info().misses == 2


def test_a_sample_set_aside_gives_its_place_to_the_next() -> None:
    mix = make_mix([made("", 5)], seed=9)
    aside = drawn(mix, [5])[1]
    samples, position = draw(mix, Position(aside={aside: "too long"}), 4)
    assert [sample.uid for sample in samples] == [uid for uid in drawn(mix, [5]) if uid != aside]
    # The epoch is used up, and a step of the next one has all of its samples but that one.
    assert position.used == {"": 5}
    samples, position = draw(mix, position, 4)
    assert aside not in [sample.uid for sample in samples]


def test_draws_beside_the_epochs_are_named_by_their_key() -> None:
    mix = make_mix([made("a", 6), made("b", 2)], seed=5)
    keys = [(step, number) for step in range(10) for number in range(5)]
    uids = [draw_beside(mix, {"a/0": "too long"}, key).uid for key in keys]
    assert uids == [draw_beside(mix, {"a/0": "too long"}, key).uid for key in keys]
    assert set(uids) == {sample.uid for each in mix.sets for sample in each.samples} - {"a/0"}


def test_a_set_with_nothing_left_is_named() -> None:
    mix = make_mix([made("a", 1), made("b", 4)], seed=0)
    with pytest.raises(ValueError, match="data set 'a': all 1 samples .* because it is long"):
        draw(mix, Position(aside={"a/0": "it is long"}), 1)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([made("a", 3), made("b", 0)], "data set 'b' has no samples"),
        ([made("a", 3, weight=1), made("b", 2)], "give all sets one above 0, or none"),
    ],
)
def test_mixes_that_cannot_be(sets: list[MixedSet], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_mix(sets, seed=0)
