"""Numbers in one piece of memory: equal to a tuple, and the same after any way."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.packed import IDS, LOGPROBS, Numbers, packed
from core.types import Media, Turn, View

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=6).map(tuple)
FLOATS = st.lists(st.floats(allow_nan=False), max_size=6).map(tuple)


@settings(deadline=None)
@given(TOKENS)
def test_they_are_a_tuple_to_everybody(values: tuple[int, ...]) -> None:
    numbers = packed(IDS, values)
    assert numbers == values
    assert values == numbers
    assert hash(numbers) == hash(values)
    assert repr(numbers) == repr(values)
    assert (len(numbers), list(numbers)) == (len(values), list(values))
    assert numbers[1:-1] == values[1:-1]
    assert bool(numbers) == bool(values)
    assert numbers != (*values, 0)
    assert numbers != list(values), "nor is a tuple"


@settings(deadline=None)
@given(FLOATS)
def test_log_probs_are_exact(values: tuple[float, ...]) -> None:
    numbers = pickle.loads(pickle.dumps(packed(LOGPROBS, values)))
    # Equality does not tell 0.0 from -0.0.
    assert repr(numbers) == repr(values)
    assert np.asarray(numbers).tolist() == list(values)


def test_numbers_of_different_types_are_compared_as_numbers() -> None:
    assert packed(LOGPROBS, (1.0, 2.0)) == packed(IDS, (1, 2))
    assert packed(LOGPROBS, (0.0,)) == packed(LOGPROBS, (-0.0,))
    assert packed(IDS, (1, 2)) != packed(IDS, (1, 3))


def test_an_array_is_as_wide_as_it_is_asked_for() -> None:
    numbers = packed(IDS, (1, 2**32 - 1))
    wide = np.array(numbers, dtype=np.int64)
    assert wide.dtype == np.int64
    assert wide.tolist() == [1, 2**32 - 1]
    wide[0] = 7
    assert numbers == (1, 2**32 - 1), "an array may be written, they may not"


@pytest.mark.parametrize("values", [(-1,), (2**32,), (0.5,), ("a",)])
def test_what_is_no_token_id_is_refused(values: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="token ids are whole"):
        packed(IDS, values)


def turn(prompt_ids: Sequence[int]) -> Turn:
    media = (Media("d", View(7, 28, 28)),)
    return Turn(prompt_ids, (3, 2**31), (-0.1, -math.inf), "a", media, True, 4)


def test_a_turn_keeps_its_numbers_packed() -> None:
    first = turn((1, 2))
    assert first == turn([1, 2])
    assert hash(first) == hash(turn(packed(IDS, (1, 2))))
    for numbers in (first.prompt_ids, first.completion_ids, first.logprobs):
        assert isinstance(numbers, Numbers)


def test_turns_come_back_from_another_process_with_their_shared_prompt() -> None:
    prompt = packed(IDS, range(5000))
    turns = [turn(prompt), turn(prompt)]
    raw = pickle.dumps(turns, protocol=5)
    assert len(raw) < 2 * 4 * len(prompt), "the prompt travels once"
    first, second = pickle.loads(raw)
    assert [first, second] == turns
    assert first.prompt_ids is second.prompt_ids
