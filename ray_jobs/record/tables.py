"""Tables of an evaluation: summary.json and per_expression.csv, from the lines on disk.

Figures of the summary are percent, apart from the reward. Figures of the csv are fractions.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.evaluation import davis
from core.evaluation.protocols import MERGED, Scored, summarise
from core.files import replacing, write_json
from core.masks import area, decode_frames
from core.types import Rle, Sample
from ray_jobs.record.predictions import Predictions, expression_of

# J and F of an object.
JF = tuple[float, float]

SCORES = ("J", "F", "J&F", "A", "R@binary", "R@visa255", "tIoU", "vIoU", "keyframe_accuracy")
HEAD = (
    "uid",
    "video",
    "expression",
    "kind",
    "query",
    *SCORES,
    "IoU",
    "reward",
    "end",
    "answer",
)


def summary_of(
    samples: Sequence[Sample], rows: Sequence[Scored], predictions: Predictions, protocol: str
) -> dict[str, Any]:
    """Return figures of the protocol, mean reward, J&F by kind, and how episodes ended.

    Args:
        samples: all expressions of the evaluation.
        rows: measured expressions, those with a public ground truth.
    """
    summary: dict[str, Any] = {"expressions": len(samples), "protocol": protocol}
    if rows:
        summary |= summarise(protocol, rows)

    ends: Counter[str] = Counter()
    rewards = []
    measured = {row.uid for row in rows}
    unrewarded = {sample.uid for sample in samples if sample.notes.others_unknown}
    lines = 0
    for line in predictions.lines([sample.uid for sample in samples]):
        ends[line["end"]] += 1
        if line["uid"] not in measured:
            continue
        lines += 1
        if line["uid"] not in unrewarded:
            # A failed episode has no reward and counts as 0.
            rewards.append(line["reward"] or 0.0)
    if rewards:
        summary["reward"] = float(np.mean(rewards))
    if lines:
        summary["J&F_by_kind"] = _by_kind(rows)
    summary["ends"] = dict(sorted(ends.items()))
    return summary


def davis_four_annotators(samples: Sequence[Sample], predictions: Predictions) -> dict[str, Any]:
    """Return J, F and J&F of Ref-DAVIS17 as its authors measure it, in percent.

    The rules are in `core.evaluation.davis`. "@official" counts the objects as their code does.

    Raises:
        ValueError: a sample has no "annotator" or "object" in its notes.
    """
    videos: dict[str, list[Sample]] = {}
    for sample in samples:
        for name in ("annotator", "object"):
            if getattr(sample.notes, name) in (None, ""):
                raise ValueError(
                    f"evaluate.protocol={MERGED}: {sample.uid} has no {name!r} in its notes: use "
                    "it for Ref-DAVIS17 (data.format=ref_davis17), or evaluate.protocol=mean"
                )
        videos.setdefault(sample.video.uid, []).append(sample)

    objects: dict[str, list[JF]] = {}
    official: dict[str, list[JF]] = {}
    for of_video in videos.values():
        truth_O = truth_of(of_video)
        counted_O = official_truth_of(of_video)
        found = _by_annotator(of_video, predictions, truth_O)
        _extend(objects, found)
        # The same objects have the same figures.
        if {*map(id, truth_O)} != {*map(id, counted_O)}:
            found = _by_annotator(of_video, predictions, counted_O)
        _extend(official, found)

    figures = davis.four_annotators(objects)
    if all(official.values()):
        for name, value in davis.four_annotators(official).items():
            figures[f"{name}@official"] = value
    return figures


def _extend(objects: dict[str, list[JF]], more: Mapping[str, Sequence[JF]]) -> None:
    for annotator, values in more.items():
        objects.setdefault(annotator, []).extend(values)


def truth_of(samples: Sequence[Sample]) -> list[davis.ObjectMasks]:
    """Return the masks of each object that the expressions of a video name."""
    truth = {}
    for sample in samples:
        for target in sample.targets:
            truth[target.uid] = target.masks_F
    return list(truth.values())


def official_truth_of(samples: Sequence[Sample]) -> list[davis.ObjectMasks]:
    """Return the masks of the objects that the official code counts in a video.

    It counts up to the largest number in frame 0: an object that comes later is left out if its
    number is larger, and a number without an object is one that is never visible.
    """
    by_number = {}
    for sample in samples:
        if not sample.notes.object.isdecimal():
            return truth_of(samples)
        for target in sample.targets:
            by_number[int(sample.notes.object)] = target.masks_F
    largest = 0
    for number, masks_F in by_number.items():
        first = masks_F[0]
        if first is not None and area(first):
            largest = max(largest, number)
    never = (None,) * samples[0].video.num_frames
    return [by_number.get(number, never) for number in range(1, largest + 1)]


def write_tables(
    folder: Path, samples: Sequence[Sample], predictions: Predictions, summary: Mapping[str, Any]
) -> None:
    """Write summary.json and per_expression.csv; readers see the old file or the new one."""
    write_json(folder / "summary.json", summary)
    with (
        replacing(folder / "per_expression.csv") as fresh,
        fresh.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(HEAD)
        for sample in samples:
            table.writerow(_row(sample, predictions.get(sample.uid)))


def _by_annotator(
    samples: Sequence[Sample], predictions: Predictions, truth_O: Sequence[davis.ObjectMasks]
) -> dict[str, list[JF]]:
    """Return (J, F) of every true object of one video, by annotator.

    An expression without a prediction is an empty mask.
    """
    video = samples[0].video
    by_annotator: dict[str, list[Sample]] = {}
    for sample in samples:
        by_annotator.setdefault(str(sample.notes.annotator), []).append(sample)

    void_F = samples[0].notes.void_F
    void_FHW = decode_frames(void_F, video.height, video.width) if void_F else None

    figures: dict[str, list[JF]] = {}
    for annotator, own in sorted(by_annotator.items()):
        masks_O = [_masks(predictions, sample) for sample in sorted(own, key=_object_number)]
        labels_FHW = davis.merge(masks_O, video.height, video.width)
        j_O, f_O = davis.match(labels_FHW, truth_O, void_FHW)
        figures[annotator] = list(zip(j_O.tolist(), f_O.tolist(), strict=True))
    return figures


def _object_number(sample: Sample) -> tuple[int, str]:
    """Return a key that sorts object numbers, which are texts: "2" before "10"."""
    return len(sample.notes.object), sample.notes.object


def _masks(predictions: Predictions, sample: Sample) -> Sequence[Rle | None]:
    """Return the predicted masks of an expression; none without a prediction."""
    line = predictions.get(sample.uid)
    if line is None:
        return (None,) * sample.video.num_frames
    return line["masks"]


def _row(sample: Sample, line: Mapping[str, Any] | None) -> list[str]:
    """Return the cells of one expression.

    A cell is empty where a figure is not defined, "missing" where the prediction is.
    """
    cells = [sample.uid, sample.video.uid, expression_of(sample), sample.kind, sample.query]
    scores = line["scores"] if line else {}
    for name in SCORES:
        cells.append(f"{scores[name]:.4f}" if name in scores else "")
    cells.append(_iou(scores))
    if line is None:
        return [*cells, "", "missing", ""]
    reward = "" if line["reward"] is None else f"{line['reward']:.4f}"
    return [*cells, reward, line["end"], json.dumps(line["answer"], ensure_ascii=False)]


def _iou(scores: Mapping[str, float]) -> str:
    """Return the IoU over the whole video; nothing found where nothing is counts as 1."""
    union = scores.get("union")
    if union is None:
        return ""
    iou = scores["intersection"] / union if union else 1.0
    return f"{iou:.4f}"


def _by_kind(rows: Sequence[Scored]) -> dict[str, float]:
    """Return the mean J&F of each kind, in percent."""
    figures: dict[str, list[float]] = {}
    for row in rows:
        figures.setdefault(row.kind, []).append(row.scores["J&F"])
    return {kind: 100 * float(np.mean(figures[kind])) for kind in sorted(figures)}
