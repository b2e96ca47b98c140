"""Tables of an evaluation: summary.json and per_expression.csv, from the lines on disk.

Knows predictions and protocols; no actor. Figures of a summary are percent, but the reward; those of the csv fractions.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.evaluation import davis
from core.evaluation.protocols import MERGED, Scored, summarise
from core.files import write_json
from core.masks import decode_frames
from core.types import Sample
from ray_jobs.record.predictions import Predictions, expression_of

SCORES = ("J", "F", "J&F", "A", "R@binary", "R@visa255", "tIoU", "vIoU", "keyframe_accuracy")


def summary_of(
    samples: Sequence[Sample], rows: Sequence[Scored], predictions: Predictions, protocol: str
) -> dict[str, Any]:
    """Figures of the protocol, mean reward, J&F by kind and how episodes ended. `rows`: of public truth only."""
    summary: dict[str, Any] = {"expressions": len(samples), "protocol": protocol}
    if rows:
        summary |= summarise(protocol, rows)
    ends = Counter[str]()
    rewards = []
    measured = {row.uid for row in rows}
    for line in predictions.lines([sample.uid for sample in samples]):
        ends[line["end"]] += 1
        if line["uid"] in measured:
            rewards.append(line["reward"] or 0.0)  # 0: a failed episode
    if rewards:
        summary["reward"] = float(np.mean(rewards))
        summary["J&F_by_kind"] = _by_kind(rows)
    return summary | {"ends": dict(sorted(ends.items()))}


def davis_four_annotators(samples: Sequence[Sample], predictions: Predictions) -> dict[str, Any]:
    """J, F and J&F of Ref-DAVIS17 as its authors measure it (`core.evaluation.davis`), in percent.

    Samples say their "annotator" and "object" in their notes, else ValueError.
    """
    videos: dict[str, list[Sample]] = {}
    for sample in samples:
        for name in ("annotator", "object"):
            if getattr(sample.notes, name) in (None, ""):
                raise ValueError(
                    f"evaluate.protocol={MERGED}: {sample.uid} has no {name!r} in its notes: use it for Ref-DAVIS17 "
                    "(data.format=ref_davis17), or evaluate.protocol=mean"
                )
        videos.setdefault(sample.video.uid, []).append(sample)
    objects: dict[str, list[tuple[float, float]]] = {}
    for several in videos.values():
        for annotator, values in _annotators(several, predictions).items():
            objects.setdefault(annotator, []).extend(values)
    return davis.four_annotators(objects)


def _annotators(
    samples: Sequence[Sample], predictions: Predictions
) -> dict[str, list[tuple[float, float]]]:
    """(J, F) of every object of one video, by annotator. An expression without a prediction is an empty mask."""
    video = samples[0].video
    truth = {target.uid: target.masks_F for sample in samples for target in sample.targets}
    ignore_F = samples[0].notes.ignore_F
    void_FHW = None if ignore_F is None else decode_frames(ignore_F, video.height, video.width)
    found: dict[str, list[tuple[float, float]]] = {}
    for annotator in sorted({str(sample.notes.annotator) for sample in samples}):
        own = [sample for sample in samples if str(sample.notes.annotator) == annotator]
        own.sort(key=lambda sample: (len(sample.notes.object), sample.notes.object))
        lines = [predictions.get(sample.uid) for sample in own]
        masks_O = [line["masks"] if line else (None,) * video.num_frames for line in lines]
        labels_FHW = davis.merge(masks_O, video.height, video.width)
        j_O, f_O = davis.match(labels_FHW, list(truth.values()), void_FHW)
        found[annotator] = list(zip(j_O.tolist(), f_O.tolist(), strict=True))
    return found


def write_tables(
    folder: Path, samples: Sequence[Sample], predictions: Predictions, summary: Mapping[str, Any]
) -> None:
    """summary.json and per_expression.csv; readers see the old file or the new one."""
    write_json(folder / "summary.json", summary)
    fresh = folder / ".per_expression.csv.new"
    with open(fresh, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        head = [
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
        ]
        table.writerow(head)
        for sample in samples:
            table.writerow(_row(sample, predictions.get(sample.uid)))
    os.replace(fresh, folder / "per_expression.csv")


def _row(sample: Sample, line: Mapping[str, Any] | None) -> list[str]:
    """Cells of one expression; empty where a figure is not defined, "missing" where there is no prediction."""
    start = [sample.uid, sample.video.uid, expression_of(sample), sample.kind, sample.query]
    scores = line["scores"] if line else {}
    cells = [f"{scores[name]:.4f}" if name in scores else "" for name in SCORES]
    union = scores.get("union")
    cells.append("" if union is None else f"{scores['intersection'] / union if union else 1.0:.4f}")
    if line is None:
        return [*start, *cells, "", "missing", ""]
    reward = "" if line["reward"] is None else f"{line['reward']:.4f}"
    return [*start, *cells, reward, line["end"], json.dumps(line["answer"], ensure_ascii=False)]


def _by_kind(rows: Sequence[Scored]) -> dict[str, float]:
    kinds = sorted({row.kind for row in rows})
    return {
        kind: 100 * float(np.mean([r.scores["J&F"] for r in rows if r.kind == kind]))
        for kind in kinds
    }
