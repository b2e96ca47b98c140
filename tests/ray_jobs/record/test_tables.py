"""Tables from lines on disk, with truth and predictions of known quality."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.evaluation.metrics import mean_j_and_f
from core.evaluation.protocols import measure
from core.masks import encode_frames
from core.types import Answer, End, Episode, Notes, Reward, Rle, Sample, Target, Video
from ray_jobs.evaluate import scored
from ray_jobs.record.predictions import Predictions, line_of
from ray_jobs.record.tables import davis_four_annotators, summary_of, write_tables

FRAMES = 3
HEIGHT = 20
WIDTH = 30


def clip(seed: int) -> np.ndarray:
    masks_FHW = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    (y, x) = np.random.default_rng(seed).integers(0, 10, 2)
    masks_FHW[:, y : y + 7, x : x + 9] = True
    return masks_FHW


def rles(masks_FHW: np.ndarray) -> tuple[Rle, ...]:
    return encode_frames(masks_FHW)


def sample_of(uid: str, *truth: np.ndarray, kind: str = "", **notes: Any) -> Sample:
    video = Video(uid.rpartition("/")[0], "nowhere", ("a", "b", "c"), HEIGHT, WIDTH)
    targets = tuple(Target(str(t.argmax()), rles(t)) for t in truth)
    return Sample(uid, video, "the quiet one", targets, kind, Notes(**notes))


def add(
    predictions: Predictions, sample: Sample, masks_FHW: np.ndarray, end: End = End.DONE
) -> None:
    masks_F = rles(masks_FHW)
    reward = None
    scores: Mapping[str, float] = {}
    if end is not End.FAILED:
        reward = Reward(1.5, {})
        scores = measure(sample, masks_F, keyframes=[1]).scores
    episode = Episode(sample.uid, (), end, Answer(keyframe=1))
    predictions.add([line_of(sample, episode, masks_F, reward, scores)])


def table(samples: list[Sample], predictions: Predictions, protocol: str) -> dict[str, object]:
    return summary_of(samples, list(scored(samples, predictions)), predictions, protocol)


def test_means_missing_and_failed(tmp_path: Path) -> None:
    predictions = Predictions.open(tmp_path, {})
    kinds = ["motion", "motion", "look", "look"]
    samples = [sample_of(f"v/{i}", clip(i), kind=kind) for i, kind in enumerate(kinds)]
    add(predictions, samples[0], clip(0))
    add(predictions, samples[1], clip(9))
    add(predictions, samples[2], clip(2), End.FAILED)
    j, _f, jf = mean_j_and_f(clip(9), clip(1))
    summary = table(samples, predictions, "mean")
    assert summary["expressions"] == 4
    assert summary["missing"] == ["v/2", "v/3"]
    assert summary["J&F"] == pytest.approx(100 * (1 + jf) / 4)
    assert summary["J"] == pytest.approx(100 * (1 + j) / 4)
    assert summary["J&F_by_kind"] == pytest.approx({"motion": 50 * (1 + jf), "look": 0.0})
    assert summary["ends"] == {"done": 2, "failed": 1}
    assert summary["reward"] == pytest.approx(3.0 / 3)

    write_tables(tmp_path, samples, predictions, summary)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    with open(tmp_path / "per_expression.csv", newline="") as file:
        rows = {row["uid"]: row for row in csv.DictReader(file)}
    assert [rows[f"v/{i}"]["end"] for i in range(4)] == ["done", "done", "failed", "missing"]
    assert rows["v/1"]["J&F"] == f"{jf:.4f}"
    assert rows["v/2"]["J&F"] == rows["v/3"]["J&F"] == ""
    assert rows["v/1"]["video"] == "v"
    assert rows["v/1"]["expression"] == "1"
    assert rows["v/1"]["query"] == "the quiet one"
    assert rows["v/0"]["R@binary"] == ""
    assert rows["v/0"]["keyframe_accuracy"] == "1.0000"


def test_revos_with_foreground_and_no_target(tmp_path: Path) -> None:
    predictions = Predictions.open(tmp_path, {})
    foreground = list(rles(clip(0) | clip(1)))
    samples = [
        sample_of("UVO/all/v/0", clip(0), kind="referring", foreground_F=foreground),
        sample_of("UVO/all/v/1", clip(1), kind="reasoning", foreground_F=foreground),
        sample_of("UVO/all/v/2", kind="no_target", foreground_F=foreground),
    ]
    for sample in samples:
        add(predictions, sample, clip(0))
    summary = table(samples, predictions, "revos")
    _, _, jf = mean_j_and_f(clip(0), clip(1))
    assert summary["J&F"] == pytest.approx(50 * (1 + jf))
    assert summary["referring/J"] == 100.0
    wrong = (clip(0) & ~clip(1))[0].sum()
    room = (clip(0) | clip(1))[0].sum()
    assert summary["reasoning/R@binary"] == pytest.approx(100 * (1 - wrong / room), abs=1e-4)
    assert summary["reasoning/R@visa255"] == 0.0
    nothing = summary["no_target"]
    assert isinstance(nothing, dict)
    assert nothing["N-acc"] == 0.0
    assert nothing["expressions"] == 1


def test_davis_by_four_annotators_repairs_swapped_objects(tmp_path: Path) -> None:
    """An annotator's two expressions have each other's object: 100 merged, low one by one."""
    predictions = Predictions.open(tmp_path, {})
    truth = [clip(0), np.roll(clip(0), 12, axis=2)]
    assert not (truth[0] & truth[1]).any(), "apart, so that merging takes nothing away"
    samples = []
    for number in range(2):
        for annotator in range(2):
            name = str(number + 1)
            uid = f"dog/{4 * number + annotator}"
            sample = sample_of(uid, truth[number], annotator=annotator, object=name)
            target = Target(name, sample.targets[0].masks_F)
            samples.append(replace(sample, targets=(target,)))
    # The last one, annotator 1's expression for the second object, has no prediction.
    for sample in samples[:3]:
        own = int(sample.notes.object) - 1
        shown = 1 - own if sample.notes.annotator == 0 else own
        add(predictions, sample, truth[shown])
    merged = davis_four_annotators(samples, predictions)
    assert merged["J&F"] == pytest.approx((100 + 50) / 2)
    alone = table(samples, predictions, "binary_per_expression")["J&F"]
    assert isinstance(alone, float)
    assert alone < 50
    assert merged["J&F@official"] == merged["J&F"]
    message = "evaluate.protocol=davis_4_annotators: v/0 has no 'annotator'"
    with pytest.raises(ValueError, match=message):
        davis_four_annotators([sample_of("v/0", clip(0))], predictions)


def test_the_official_count_of_objects_leaves_out_a_late_one(tmp_path: Path) -> None:
    """Objects 1 and 3 with a number between them that none has, and 4, which comes in frame 1."""
    predictions = Predictions.open(tmp_path, {})
    late = np.roll(clip(0), 12, axis=2)
    late[0] = False
    samples = []
    for number, truth in ((1, clip(0)), (3, clip(1)), (4, late)):
        sample = sample_of(f"dog/{number}", truth, annotator=0, object=str(number))
        target = Target(str(number), sample.targets[0].masks_F)
        samples.append(replace(sample, targets=(target,)))
    add(predictions, samples[0], clip(0))
    add(predictions, samples[1], np.zeros_like(clip(0)))
    add(predictions, samples[2], late)
    merged = davis_four_annotators(samples, predictions)
    assert merged["J"] == pytest.approx(100 * (1 + 0 + 1) / 3)
    # The numbers 1, 2 and 3: found, never visible, and matched with what is left.
    j, _, _ = mean_j_and_f(late, clip(1))
    assert merged["J@official"] == pytest.approx(100 * (1 + 1 + j) / 3)
    numberless = [replace(each, notes=replace(each.notes, object="the dog")) for each in samples]
    by_name = davis_four_annotators(numberless, predictions)
    assert by_name["J@official"] == by_name["J"]
