"""Form of all turns, by hand."""

import pytest

from rewards.turn_form import all_in_form, share_of_steps


def test_one_turn_out_of_form_costs_all():
    assert all_in_form([[True, True, True], [True, False], [False], [True]]).tolist() == [
        1,
        -1,
        -1,
        1,
    ]


def test_share_of_steps():
    assert share_of_steps([[4], [4, 0], [1, 2, 3], [0]]).tolist() == pytest.approx([1, 0.5, 0.5, 0])
