"""Figures of a split, counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from core.masks import encode
from core.types import Sample, Target, Video
from data.prepare.statistics import rows, statistics
from data.prepare.tables import target_table


def _target(uid: str, sides: list[int]) -> Target:
    masks = []
    for side in sides:
        mask_HW = np.zeros((10, 20), bool)
        mask_HW[:side, :side] = True
        masks.append(encode(mask_HW) if side else None)
    return Target(uid, tuple(masks))


def test_figures() -> None:
    video = Video("v", "nowhere", ("0", "1"), 10, 20)
    other = Video("w", "nowhere", ("0", "1"), 10, 20)
    one = _target("1", [10, 0])
    two = _target("2", [2, 4])
    third = _target("1", [0, 0])
    samples = [
        Sample("v/0", video, "the left one", (one,), "place"),
        Sample("v/1", video, "both", (one, two), "place"),
        Sample("w/0", other, "nobody is here", (third,)),
        Sample("w/1", other, "none", ()),
    ]
    tables = {
        ("v", "1"): target_table("v", one),
        ("v", "2"): target_table("v", two),
        ("w", "1"): target_table("w", third),
    }
    found = json.loads(json.dumps(statistics(samples, tables)))
    assert found["videos"] == 2
    assert found["expressions"] == 4
    assert found["expressions_with_target"] == 3
    assert found["frames"] == 4
    assert found["objects"] == 3
    assert found["objects_per_expression"] == {"0": 1, "1": 2, "2": 1}
    assert found["visible_share"]["mean"] == pytest.approx((0.5 + 1 + 0) / 3)
    shares = [100 / 200, 4 / 200, 16 / 200]
    assert found["area_share"]["mean"] == pytest.approx(sum(shares) / 3)
    assert found["words_per_query"]["max"] == 3
    assert found["words_per_query"]["mean"] == 2.0
    assert found["kinds"] == {"place": 2, "(none)": 2}
    assert found["frame_sizes"] == {"10 x 20": 2}
    lines = dict(rows(found))
    assert lines["expressions"] == "4"
    assert lines["kinds"] == "place: 2, (none): 2"


def test_an_object_without_a_table_is_left_out_and_nothing_at_all_is_fine() -> None:
    video = Video("v", "nowhere", ("0",), 10, 20)
    sample = Sample("v/0", video, "it", (_target("1", [3]),))
    found = statistics([sample], {})
    assert found["objects"] == 0
    assert found["area_share"] == {}
    assert found["objects_per_expression"] == {"1": 1}
    assert dict(rows(statistics([], {})))["videos"] == "0"
