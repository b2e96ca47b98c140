"""How a benchmark turns masks into its table: what is measured on one expression, and how expressions are averaged.

A protocol is a function from all expressions of a split to named figures in percent. `PROTOCOLS` names them and
`OF_FORMAT` says which one a data set is published with. Rules that hold for all of them:

- the truth of an expression is the union of its objects: joined, not added as in MeViS, where overlaps become twos;
- all frames count, the first and the last too, or those that the notes' `frames_listed` names (ReasonVOS: where there
  is a true mask); an expression's value is the mean over its frames;
- a missing prediction is 0 in every figure and stays in every mean (MeViS's script drops it, ReasonVOS's skips it);
- expressions without a target are reported apart (`no_target`), never in the means.

This file knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.evaluation import metrics
from core.masks import area, decode_frames, union_of_targets
from core.types import Rle, Sample

CHUNK = 32  # frames decoded at a time
ANSWERED = "answered"  # 1 if any frame has a mask


@dataclass(frozen=True)
class Scored:
    """One expression, measured. `scores` are fractions, but "intersection" and "union", which are pixels."""

    uid: str
    kind: str
    has_target: bool
    scores: Mapping[str, float] = field(default_factory=dict)
    missing: bool = False  # no prediction


def measure(
    sample: Sample, pred_rles_F: Sequence[Rle | None], keyframes: Collection[int] | None = None
) -> Scored:
    """Everything that is defined for one expression.

    J, F, J&F, A, A@visa255, intersection, union (summed over the frames), tIoU and vIoU (Long-RVOS: over frames
    where prediction or truth is not empty), answered; R@binary and R@visa255 where the notes have
    `foreground_F` (ReVOS); keyframe_accuracy where `keyframes` are given. Pixels of the notes' `ignore_F` count nowhere.

    Raises ValueError for masks of another size or number than the video's.
    """
    _check(sample, pred_rles_F)
    truth_F = union_of_targets(sample)
    columns: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(truth_F), CHUNK):
        part = range(start, min(start + CHUNK, len(truth_F)))
        for name, values_F in _frames(sample, pred_rles_F, truth_F, part).items():
            columns.setdefault(name, []).append(values_F)
    counted_F = _counted(sample)
    visible_F = np.concatenate(columns["gt"]) > 0  # of all frames: a keyframe may be any
    per_frame = {name: np.concatenate(parts)[counted_F] for name, parts in columns.items()}
    counts = {name: per_frame.pop(name) for name in ("intersection", "union", "pred", "gt")}
    scores = {name: float(values_F.mean()) for name, values_F in per_frame.items()}
    scores["J&F"] = (scores["J"] + scores["F"]) / 2
    scores |= {name: float(counts[name].sum()) for name in ("intersection", "union")}
    seen_F = counts["pred"] > 0
    there_F = counts["gt"] > 0
    scores["tIoU"] = metrics.frame_iou(seen_F, there_F)
    either_F = seen_F | there_F
    scores["vIoU"] = float(per_frame["J"][either_F].mean()) if either_F.any() else 1.0
    scores[ANSWERED] = float(seen_F.any())
    if keyframes is not None and sample.targets:
        scores["keyframe_accuracy"] = metrics.keyframe_accuracy(keyframes, visible_F)
    return Scored(sample.uid, sample.kind, bool(sample.targets), scores)


def missing(sample: Sample) -> Scored:
    """An expression without a prediction: 0 everywhere; its true pixels count in the union."""
    names = ["J", "F", "J&F", "A", "A@visa255", "tIoU", "vIoU", ANSWERED, "intersection"]
    names += ["R@binary", "R@visa255"] if sample.notes.foreground_F is not None else []
    names += ["keyframe_accuracy"] if sample.targets else []
    truth = zip(union_of_targets(sample), _counted(sample), strict=True)
    true = sum(area(rle) for rle, counted in truth if rle is not None and counted)
    scores = dict.fromkeys(names, 0.0) | {"union": float(true)}
    return Scored(sample.uid, sample.kind, bool(sample.targets), scores, missing=True)


def mean(rows: Sequence[Scored]) -> dict[str, float]:
    """Unweighted mean over the expressions (MeViS tools/eval_mevis.py, VISA tools/eval_davis17.py, ReasonVOS)."""
    return _means(
        rows, ("J", "F", "J&F", "A", "R@binary", "R@visa255", "tIoU", "vIoU", "keyframe_accuracy")
    )


def by_kind(rows: Sequence[Scored]) -> dict[str, float]:
    """The mean over all expressions, then over those of each kind (Long-RVOS: static, dynamic, hybrid)."""
    figures = mean(rows)
    for kind in sorted({row.kind for row in rows}):
        figures |= _prefixed(kind, mean([row for row in rows if row.kind == kind]))
    return figures


def revos(rows: Sequence[Scored]) -> dict[str, float]:
    """J, F, J&F, A and R of ReVOS (VISA tools/eval_revos.py): overall is the plain mean of "referring" and "reasoning".

    Each of the two is a mean over its expressions. VISA's script rounds every value to 0.01 first; we do not. If one
    of the two is not there, overall is the other.
    """
    names = ("J", "F", "J&F", "A", "A@visa255", "R@binary", "R@visa255")
    subsets = {
        kind: [row for row in rows if row.kind == kind] for kind in ("referring", "reasoning")
    }
    unknown = sorted({row.kind for row in rows if row.has_target} - set(subsets))
    if unknown:
        raise ValueError(
            f"evaluate.protocol=revos: expressions are referring or reasoning, not {', '.join(unknown)!r}"
        )
    parts = {kind: _means(subset, names) for kind, subset in subsets.items() if subset}
    common = [name for name in names if all(name in figures for figures in parts.values())]
    overall = {
        name: float(np.mean([figures[name] for figures in parts.values()])) for name in common
    }
    for kind, figures in parts.items():
        overall |= _prefixed(kind, figures)
    return overall


def images(rows: Sequence[Scored]) -> dict[str, float]:
    """gIoU and cIoU over images (ReasonSeg: LISA train_ds.py; refCOCO: cIoU, where mIoU is gIoU), then by kind.

    "gIoU@empty0" gives an image whose truth and prediction are both empty 0 instead of 1, as Seg-Zero does.
    """

    def figures(part: Sequence[Scored]) -> dict[str, float]:
        inter, union = ([row.scores[name] for row in part] for name in ("intersection", "union"))
        # A missing prediction is 0 in both, also where the truth is empty.
        wrong = [max(u, 1.0) if row.missing else u for row, u in zip(part, union, strict=True)]
        return {
            "gIoU": 100 * metrics.g_iou(inter, wrong),
            "gIoU@empty0": 100 * metrics.g_iou(inter, wrong, empty=0.0),
            "cIoU": 100 * metrics.c_iou(inter, union),
        }

    kinds = sorted({row.kind for row in rows} - {""})
    result = figures(rows)
    for kind in kinds if len(kinds) > 1 else []:
        result |= _prefixed(kind, figures([row for row in rows if row.kind == kind]))
    return result


def no_target(rows: Sequence[Scored]) -> dict[str, float]:
    """Of expressions that mean nothing in the video: N-acc, the share answered with no mask at all (GRES), J and F.

    J and F are 1 on a frame without a mask here, so they only say how many frames were left alone.
    """
    return {
        "N-acc": 100
        * float(np.mean([1 - r.scores[ANSWERED] if not r.missing else 0 for r in rows]))
    } | _means(rows, ("J", "F", "J&F", "R@binary", "R@visa255"))


def t_acc(rows: Sequence[Scored]) -> float:
    """Share of expressions with a target that were answered with some mask (GRES), in percent."""
    return 100 * float(np.mean([row.scores[ANSWERED] for row in rows]))


Protocol = Callable[[Sequence[Scored]], dict[str, float]]
MERGED = "davis_4_annotators"  # Ref-DAVIS17 by its authors; needs the masks of all objects of a video: core.evaluation.davis
BINARY = "binary_per_expression"  # Ref-DAVIS17 as VISA, Sa2VA and VideoSEG-O3 measure it; not comparable with MERGED

PROTOCOLS: dict[str, Protocol] = {
    "mean": mean,
    "by_kind": by_kind,
    "revos": revos,
    "images": images,
    BINARY: mean,
    MERGED: mean,  # of single expressions; the benchmark's own figures come on top
}

OF_FORMAT: dict[str, str] = {
    "revos": "revos",
    "longrvos": "by_kind",
    "ref_davis17": MERGED,
    "reasonseg": "images",
    "refcoco": "images",
}  # all others: mean


def protocol_of(name: str, data_format: str) -> str:
    """`evaluate.protocol`, where "auto" is the one that the data set is published with."""
    return OF_FORMAT.get(data_format, "mean") if name == "auto" else name


def summarise(protocol: str, rows: Sequence[Scored]) -> dict[str, Any]:
    """The table of a benchmark: its figures in percent; "no_target" and "missing" (uids) where there are any."""
    real = [r for r in rows if r.has_target]
    none = [r for r in rows if not r.has_target]
    figures: dict[str, Any] = PROTOCOLS[protocol](real) if real else {}
    if none:
        figures["T-acc"] = t_acc(real) if real else 0.0
        figures["no_target"] = no_target(none) | {"expressions": len(none)}
    figures["missing"] = [row.uid for row in rows if row.missing]
    return figures


def _frames(
    sample: Sample,
    pred_rles_F: Sequence[Rle | None],
    truth_F: Sequence[Rle | None],
    part: Sequence[int],
) -> dict[str, np.ndarray]:
    """All values of some frames, (n,) each."""
    size = (sample.video.height, sample.video.width)
    ignore = _ignored(sample, part)
    pred_FHW, gt_FHW = (
        metrics.without(decode_frames([rles[f] for f in part], *size), ignore)
        for rles in (pred_rles_F, truth_F)
    )
    j_F, f_F = metrics.j_and_f(pred_FHW, gt_FHW)
    inter_F, union_F = metrics.overlap(pred_FHW, gt_FHW)
    values = {"J": j_F, "F": f_F, "intersection": inter_F, "union": union_F}
    values |= {"pred": metrics.pixels(pred_FHW), "gt": metrics.pixels(gt_FHW)}
    values["A"] = metrics.accuracy(inter_F, union_F, size[0] * size[1])
    values["A@visa255"] = metrics.accuracy(inter_F, union_F, size[0] * size[1], "visa255")
    if sample.notes.foreground_F is not None:
        rles = [sample.notes.foreground_F[f] for f in part]
        foreground_F = np.array([0 if rle is None else area(rle) for rle in rles])
        values["R@binary"] = metrics.robustness(values["pred"] - inter_F, foreground_F)
        values["R@visa255"] = metrics.robustness(values["pred"] - inter_F, foreground_F, "visa255")
    return values


def _counted(sample: Sample) -> np.ndarray:
    """bool (F,): frames that count."""
    names = sample.video.frame_names
    listed = sample.notes.frames_listed
    return np.array([listed is None or name in listed for name in names])


def _ignored(sample: Sample, part: Sequence[int]) -> np.ndarray | None:
    """Pixels that count nowhere, bool (n, H, W); None if all count."""
    ignore_F = sample.notes.ignore_F
    if ignore_F is None:
        return None
    rles = [ignore_F[f] for f in part]
    return decode_frames(rles, sample.video.height, sample.video.width)


def _check(sample: Sample, pred_rles_F: Sequence[Rle | None]) -> None:
    video = sample.video
    if len(pred_rles_F) != video.num_frames:
        raise ValueError(
            f"{sample.uid}: {len(pred_rles_F)} predicted masks for a video of {video.num_frames} frames"
        )
    for frame, rle in enumerate(pred_rles_F):
        if rle is not None and tuple(rle["size"]) != (video.height, video.width):
            raise ValueError(
                f"{sample.uid}: the predicted mask of frame {frame} is {rle['size'][0]} x {rle['size'][1]}, the video "
                f"{video.height} x {video.width} (height x width): predict at the size of the video"
            )


def _means(rows: Sequence[Scored], names: Iterable[str]) -> dict[str, float]:
    """Percent, of those figures that every row has."""
    shared = [name for name in names if rows and all(name in row.scores for row in rows)]
    return {name: 100 * float(np.mean([row.scores[name] for row in rows])) for name in shared}


def _prefixed(kind: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{kind}/{name}": value for name, value in figures.items()}
