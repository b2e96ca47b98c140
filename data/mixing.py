"""The order in which samples are drawn from one or several data sets.

    mix = make_mix([MixedSet("mevis", mevis), MixedSet("revos", revos)], seed=0)
    samples, position = draw(mix, Position(), 16)
    samples, position = draw(mix, position, 16)

A draw depends on nothing but its arguments, so a run goes on from a stored position as if it had
never stopped. Each draw picks a set by its share, then the next sample of that set, whose epochs
are permuted one by one. D is the number of data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from core.types import Sample

# Epochs whose order is kept: of two runs of a mix of 16 sets, or of more runs of fewer sets.
EPOCHS = 32

# Ends the seed of the choice among sets. A set's name, the end of its own seeds, has no blank.
_WHICH_SET = tuple(b"which set")
# Ends the seed of a draw beside the epochs.
_BESIDE = tuple(b"beside the epochs")


@dataclass(frozen=True)
class MixedSet:
    """One data set of a mix.

    Attributes:
        name: Its name; "" for the only set of a run.
        samples: Its samples, with uids that are unique in the mix.
        weight: Its share relative to the other sets; 0 in all sets: by size.
        repeats: Uses of each sample in an epoch; multiplies the size of the set.
    """

    name: str
    samples: Sequence[Sample]
    weight: float = 0.0
    repeats: int = 1

    @property
    def epoch(self) -> int:
        """Number of draws in an epoch of this set."""
        return len(self.samples) * self.repeats


@dataclass(frozen=True)
class Mix:
    """Data sets with their shares, and the seed of all draws.

    Attributes:
        shares_D: Probability of each set, float64.
    """

    sets: tuple[MixedSet, ...]
    shares_D: np.ndarray
    seed: int


@dataclass(frozen=True)
class Position:
    """How far the draws of a run have come.

    Attributes:
        used: Number of draws from each set, by name; a set without an entry has none.
        aside: Samples that are not drawn any more: their uid, and the reason.
    """

    used: Mapping[str, int] = field(default_factory=dict)
    aside: Mapping[str, str] = field(default_factory=dict)


def make_mix(sets: Sequence[MixedSet], seed: int, temperature: float = 1.0) -> Mix:
    """Return the mix of some data sets.

    Args:
        temperature: For sets without weights, as `by_temperature`.

    Raises:
        ValueError: A set is empty, or only some sets have a weight.
    """
    for each in sets:
        if not each.samples:
            raise ValueError(f"data set {each.name!r} has no samples, so it cannot be mixed")
    weights = [each.weight for each in sets]
    if any(weights):
        if not all(weights):
            raise ValueError(f"mixing weights {weights}: give all sets one above 0, or none")
        shares_D = shares(weights)
    else:
        shares_D = by_temperature([each.epoch for each in sets], temperature)
    return Mix(tuple(sets), shares_D, seed)


def draw(mix: Mix, position: Position, count: int) -> tuple[list[Sample], Position]:
    """Return the next `count` samples, and the position behind them.

    Raises:
        ValueError: All samples of a set are set aside.
    """
    check_left(mix, position.aside)
    used = {each.name: position.used.get(each.name, 0) for each in mix.sets}
    drawn: list[Sample] = []
    while len(drawn) < count:
        each = _picked_set(mix, sum(used.values()))
        epoch, place = divmod(used[each.name], each.epoch)
        used[each.name] += 1
        order = _order(mix.seed, each.name, epoch, each.epoch)
        sample = each.samples[order[place] % len(each.samples)]
        if sample.uid not in position.aside:
            drawn.append(sample)
    return drawn, Position(used, position.aside)


def draw_beside(mix: Mix, aside: Mapping[str, str], key: Sequence[int]) -> Sample:
    """Return a sample at random, which no epoch counts.

    Args:
        aside: Samples that are not drawn any more.
        key: Names the draw; with the mix's seed it decides.

    Raises:
        ValueError: All samples of a set are set aside.
    """
    check_left(mix, aside)
    rng = np.random.default_rng([mix.seed, *key, *_BESIDE])
    while True:
        each = mix.sets[rng.choice(len(mix.sets), p=mix.shares_D)]
        sample = each.samples[int(rng.integers(len(each.samples)))]
        if sample.uid not in aside:
            return sample


def check_left(mix: Mix, aside: Mapping[str, str]) -> None:
    """Refuse a mix with a set without any sample to draw.

    Raises:
        ValueError: All samples of a set are set aside.
    """
    if not aside:
        return
    for each in mix.sets:
        if all(sample.uid in aside for sample in each.samples):
            first = each.samples[0].uid
            where = f"data set {each.name!r}" if each.name else "the training data"
            raise ValueError(
                f"{where}: all {len(each.samples)} samples are set aside, the first, {first!r}, "
                f"because {aside[first]}"
            )


def _picked_set(mix: Mix, total: int) -> MixedSet:
    """Return the set of a draw; `total` is the number of all draws before."""
    if len(mix.sets) == 1:
        return mix.sets[0]
    # Its own generator for each draw: the choice must not depend on the number of draws at a time.
    rng = np.random.default_rng([mix.seed, total, *_WHICH_SET])
    return mix.sets[rng.choice(len(mix.sets), p=mix.shares_D)]


# The last epochs are kept: a step must not cost what a permutation of the whole set does.
@lru_cache(maxsize=EPOCHS)
def _order(seed: int, name: str, epoch: int, draws: int) -> np.ndarray:
    """Return the order of the draws of a set in one epoch, int64 (draws,), read-only."""
    rng = np.random.default_rng([seed, epoch, *name.encode()])
    order = rng.permutation(draws)
    order.flags.writeable = False
    return order


def shares(weights: Sequence[float]) -> np.ndarray:
    """Return weights as probabilities, float64 (D,).

    Raises:
        ValueError: A weight is negative or not finite, or none is positive.
    """
    weights_D = np.asarray(weights, dtype=np.float64)
    is_row = weights_D.ndim == 1 and len(weights_D) > 0
    if not is_row or not np.isfinite(weights_D).all() or (weights_D < 0).any():
        raise ValueError(
            f"mixing weights {list(weights)}: one finite number of at least 0 for each data set is "
            "needed"
        )
    if not weights_D.sum() > 0:
        raise ValueError(f"mixing weights {list(weights)}: at least one must be positive")
    return weights_D / weights_D.sum()


def by_temperature(sizes: Sequence[int], temperature: float = 1.0) -> np.ndarray:
    """Return probabilities proportional to size ** (1 / temperature), float64 (D,).

    This is the rule of XLM-R and mT5. At temperature 1 every sample of all data sets is equally
    likely. Larger temperatures favour small data sets, up to equal shares at infinity.

    Raises:
        ValueError: The temperature is not positive, or a data set is empty.
    """
    if not temperature > 0:
        raise ValueError(
            f"mixing temperature {temperature}: must be positive (1: by size; inf: equal shares)"
        )
    if not len(sizes) or min(sizes) <= 0:
        raise ValueError(f"data sets of {list(sizes)} samples: each needs at least one to be mixed")

    logs_D = np.log(np.asarray(sizes, dtype=np.float64)) / temperature
    # The largest becomes exp(0), so that a small temperature does not overflow.
    return shares(list(np.exp(logs_D - logs_D.max())))


def epochs_of(num_draws: int, sizes: Sequence[int], weights: Sequence[float]) -> np.ndarray:
    """Return how often `num_draws` draws go through each data set on average, float64 (D,)."""
    return num_draws * shares(weights) / np.asarray(sizes, dtype=np.float64)
