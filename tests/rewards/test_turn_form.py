"""Form of all turns, by hand."""

import pytest

from rewards.turn_form import all_in_form, share_of_steps


def test_one_turn_out_of_form_costs_all() -> None:
    kept_GT = [[True, True, True], [True, False], [False], [True]]
    assert all_in_form(kept_GT).tolist() == [1, -1, -1, 1]


def test_share_of_steps() -> None:
    named_GT = [[4], [4, 0], [1, 2, 3], [0]]
    assert share_of_steps(named_GT).tolist() == pytest.approx([1, 0.5, 0.5, 0])
