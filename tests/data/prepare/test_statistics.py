"""Figures of a split that can be counted by hand."""

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
    video, other = (Video(uid, "nowhere", ("0", "1"), 10, 20) for uid in "vw")
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
        t.key: t for t in [target_table("v", one), target_table("v", two), target_table("w", third)]
    }
    found = json.loads(json.dumps(statistics(samples, tables)))
    assert [found[k] for k in ("videos", "expressions", "frames", "objects")] == [2, 4, 4, 3]
    assert found["objects_per_expression"] == {"0": 1, "1": 2, "2": 1}
    assert found["visible_share"]["mean"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["area_share"]["mean"] == pytest.approx((0.5 + 4 / 200 + 16 / 200) / 3)
    assert found["words_per_query"]["max"] == 3
    assert found["words_per_query"]["mean"] == 2.0
    assert found["kinds"] == {"place": 2, "(none)": 2}
    assert found["frame_sizes"] == {"10 x 20": 2}
    said = dict(rows(found))
    assert said["expressions"] == "4"
    assert said["kinds"] == "place: 2, (none): 2"


def test_an_object_without_a_table_is_left_out_and_nothing_at_all_is_fine() -> None:
    video = Video("v", "nowhere", ("0",), 10, 20)
    found = statistics([Sample("v/0", video, "it", (_target("1", [3]),))], {})
    assert found["objects"] == 0
    assert found["area_share"] == {}
    assert found["objects_per_expression"] == {"1": 1}
    assert dict(rows(statistics([], {})))["videos"] == "0"
