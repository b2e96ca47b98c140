"""Tables of the benchmarks against straight code and sums done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.evaluation import metrics, protocols
from core.evaluation.protocols import Scored, measure, missing, summarise
from core.masks import encode, encode_frames
from core.types import Notes, Rle, Sample, Target, Video

HEIGHT = 10
WIDTH = 14
# More than are decoded at a time.
FRAMES = 40


def rles(masks_FHW: np.ndarray) -> tuple[Rle | None, ...]:
    pairs = zip(encode_frames(masks_FHW), masks_FHW, strict=True)
    return tuple(rle if mask_HW.any() else None for rle, mask_HW in pairs)


def clip(seed: int, share: float = 0.4) -> np.ndarray:
    masks_FHW = np.random.default_rng(seed).random((FRAMES, HEIGHT, WIDTH)) < share
    masks_FHW[::7] = False
    return masks_FHW


def sample_of(*objects: np.ndarray, uid: str = "v/0", kind: str = "", **notes: Any) -> Sample:
    video = Video("v", "nowhere", tuple(f"{i:05d}" for i in range(FRAMES)), HEIGHT, WIDTH)
    targets = tuple(Target(str(i), rles(o)) for i, o in enumerate(objects))
    return Sample(uid, video, "the one on the left", targets, kind, Notes(**notes))


def row(uid: str, kind: str = "", target: bool = True, **scores: float) -> Scored:
    """A measured expression; J__F stands for J&F."""
    named = {name.replace("__", "&"): value for name, value in scores.items()}
    return Scored(uid, kind, target, {"answered": 1.0} | named)


def test_one_expression_against_straight_code() -> None:
    first = clip(0)
    second = clip(1)
    pred = clip(2)
    foreground = clip(3, 0.9)
    foreground |= first | second
    # Joined: where two objects overlap a pixel counts once.
    gt = first | second
    sample = sample_of(first, second, foreground_F=list(rles(foreground)))
    scores = measure(sample, rles(pred), keyframes=[0, 1]).scores
    inter = (pred & gt).sum((1, 2))
    union = (pred | gt).sum((1, 2))
    j_F = np.where(union > 0, inter / np.maximum(union, 1), 1.0)
    _, f_F = metrics.j_and_f(pred, gt)
    assert scores["J"] == pytest.approx(j_F.mean())
    assert scores["F"] == pytest.approx(f_F.mean())
    assert scores["J&F"] == pytest.approx((j_F.mean() + f_F.mean()) / 2)
    assert scores["A"] == pytest.approx((pred == gt).mean())
    wrong = (pred & ~gt).sum((1, 2))
    room = foreground.sum((1, 2)) + 1e-6
    assert scores["R@binary"] == pytest.approx(np.maximum(1 - wrong / room, 0).mean())
    assert scores["R@visa255"] == pytest.approx(np.maximum(1 - 255 * wrong / room, 0).mean())
    assert scores["intersection"] == inter.sum()
    assert scores["union"] == union.sum()
    seen = pred.any((1, 2))
    visible = gt.any((1, 2))
    assert scores["tIoU"] == pytest.approx((seen & visible).sum() / (seen | visible).sum())
    assert scores["vIoU"] == pytest.approx(j_F[seen | visible].mean())
    assert scores["keyframe_accuracy"] == visible[[0, 1]].mean() == 0.5


def test_overlapping_objects_are_joined_where_the_published_script_adds() -> None:
    """A perfect prediction has J, A and R of 1.

    With added masks VISA's script finds R = 0, because 1 - 2 wraps to 255.
    """
    first = clip(0)
    second = clip(0) | clip(1)
    sample = sample_of(first, second, foreground_F=list(rles(second)))
    scores = measure(sample, rles(first | second)).scores
    assert [scores[name] for name in ("J", "F", "A", "R@binary", "tIoU")] == [1.0] * 5


def test_ignored_region() -> None:
    gt = clip(0)
    pred = clip(1)
    ignore = np.random.default_rng(2).random((HEIGHT, WIDTH)) < 0.5
    sample = sample_of(gt, ignore_F=[encode(ignore)] * FRAMES)
    scores = measure(sample, rles(pred)).scores
    assert scores["union"] == ((pred | gt) & ~ignore).sum()
    assert scores["intersection"] == (pred & gt & ~ignore).sum()


def test_only_listed_frames_count_where_some_are_listed() -> None:
    gt = clip(0)
    pred = clip(1)
    kept = [1, 8, 35]
    sample = sample_of(gt, frames_listed=tuple(f"{i:05d}" for i in kept))
    found = measure(sample, rles(pred), keyframes=[2])
    j_F, f_F = metrics.j_and_f(pred[kept], gt[kept])
    assert found.scores["J"] == pytest.approx(j_F.mean())
    assert found.scores["F"] == pytest.approx(f_F.mean())
    assert found.scores["intersection"] == (pred & gt)[kept].sum()
    # The target is visible on the keyframe, whether it counts or not.
    assert found.scores["keyframe_accuracy"] == 1.0
    assert missing(sample).scores["union"] == gt[kept].sum()


def test_wrong_predictions_are_told_by_frame() -> None:
    sample = sample_of(clip(0))
    with pytest.raises(ValueError, match="v/0: 3 predicted masks for a video of 40 frames"):
        measure(sample, (None,) * 3)
    narrow = encode(np.ones((HEIGHT, 3), dtype=bool))
    wrong = (None, narrow, *[None] * (FRAMES - 2))
    message = r"v/0: the predicted mask of frame 1 is 10 x 3, the video 10 x 14"
    with pytest.raises(ValueError, match=message):
        measure(sample, wrong)


def test_missing_predictions_are_zero_and_listed() -> None:
    gt = clip(0)
    whole = sample_of(gt, uid="v/0")
    lost = sample_of(gt, uid="v/1")
    table = summarise("mean", [measure(whole, rles(gt), keyframes=[1]), missing(lost)])
    assert table["missing"] == ["v/1"]
    for name in ("J", "F", "J&F", "A", "keyframe_accuracy"):
        assert table[name] == 50.0, name
    of_images = summarise("images", [measure(whole, rles(gt)), missing(lost)])
    assert of_images["cIoU"] == pytest.approx(50.0)
    empty = missing(sample_of(np.zeros_like(gt)))
    assert protocols.images([empty])["gIoU"] == 0.0, "nothing was predicted, not even nothing"


def test_no_target_expressions_are_apart() -> None:
    nothing = (None,) * FRAMES
    something = rles(clip(1))
    rows = [
        measure(sample_of(clip(0), uid="v/0"), rles(clip(0))),
        measure(sample_of(uid="v/1"), nothing),
        measure(sample_of(uid="v/2"), something),
        missing(sample_of(uid="v/3")),
    ]
    table = summarise("mean", rows)
    assert table["J&F"] == 100.0
    assert table["T-acc"] == 100.0
    assert table["no_target"]["N-acc"] == pytest.approx(100 / 3)
    assert table["no_target"]["expressions"] == 3


def test_revos_overall_is_the_mean_of_two_means() -> None:
    scores: dict[str, Any] = {"J": 0.2, "F": 0.4, "J__F": 0.3, "A": 0.9}
    better: dict[str, Any] = scores | {"J": 0.8, "J__F": 0.6}
    rows = [row("a", "referring", **scores)] * 3
    rows.append(row("b", "reasoning", **better))
    rows.append(row("c", "no_target", target=False, answered=0.0, J=1.0))
    table = summarise("revos", rows)
    assert table["referring/J"] == pytest.approx(20)
    assert table["reasoning/J"] == pytest.approx(80)
    assert table["J"] == pytest.approx((20 + 80) / 2), "not the mean over the four expressions, 35"
    assert table["J&F"] == pytest.approx((30 + 60) / 2)
    assert table["no_target"]["N-acc"] == 100.0
    assert "R@binary" not in table
    with pytest.raises(ValueError, match="not 'motion'"):
        protocols.revos([row("a", "motion", J=0.1)])


def test_ref_sav_overall_is_the_mean_of_long_and_short() -> None:
    rows = [
        row("a", "long", J=0.2, A=0.9),
        row("b", "long", J=0.4, A=0.7),
        row("c", "short", J=1.0),
    ]
    table = protocols.ref_sav(rows)
    assert table["J"] == pytest.approx((30 + 100) / 2), "not the mean over the three sentences, 53"
    assert table["long/J"] == pytest.approx(30)
    assert table["short/J"] == pytest.approx(100)
    # The train split has no kinds.
    assert protocols.ref_sav([row("a", J=0.5)]) == pytest.approx({"J": 50.0})


def test_by_kind() -> None:
    rows = [row("a", "static", J=1.0), row("b", "static", J=0.5), row("c", "dynamic", J=0.0)]
    assert protocols.by_kind(rows) == pytest.approx({"J": 50.0, "static/J": 75.0, "dynamic/J": 0.0})


def test_images() -> None:
    rows = [
        row("a", "short", intersection=10.0, union=20.0),
        row("b", "long", intersection=0.0, union=80.0),
        row("c", "long", intersection=0.0, union=0.0),
    ]
    table = protocols.images(rows)
    assert table["gIoU"] == pytest.approx(50.0)
    assert table["gIoU@empty0"] == pytest.approx(50 / 3)
    assert table["cIoU"] == pytest.approx(10.0)
    assert table["short/gIoU"] == pytest.approx(50.0)
    assert table["long/cIoU"] == 0.0


def test_protocols_by_format() -> None:
    assert protocols.protocol_of("auto", "revos") == "revos"
    assert protocols.protocol_of("auto", "mevis") == "mean"
    assert protocols.protocol_of("auto", "ref_davis17") == "davis_4_annotators"
    assert protocols.protocol_of("binary_per_expression", "ref_davis17") == "binary_per_expression"
    assert set(protocols.OF_FORMAT.values()) <= set(protocols.PROTOCOLS)
