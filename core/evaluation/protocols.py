"""Protocols turn the measures of single expressions into a benchmark's table.

A protocol is a function from all expressions of a split to named figures in percent. `PROTOCOLS`
names them, and `OF_FORMAT` names the published one of each data set. Common rules:

- the truth of an expression is the union of its objects (MeViS's script adds them, so that an
  overlap becomes 2);
- all frames count, the first and the last too, or those in the notes' `frames_listed` (ReasonVOS:
  the frames with a true mask); an expression's value is the mean over its frames;
- a missing prediction is 0 in every figure and stays in every mean (MeViS's script drops it,
  ReasonVOS's skips it);
- expressions without a target are reported apart (`no_target`), never in the means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.evaluation import metrics
from core.masks import area, decode_frames, union_of_targets
from core.types import Rle, Sample

# Frames decoded at a time.
CHUNK = 32
# Name of a score: 1 if any frame has a mask.
ANSWERED = "answered"
# Columns that count pixels; not averaged over frames.
COUNTS = ("intersection", "union", "pred", "gt")

# Values by name, frame by frame.
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scored:
    """The measures of one expression.

    Attributes:
        uid: of the sample.
        kind: of the sample.
        has_target: False if the right answer is "none".
        scores: fractions, except for "intersection" and "union" in pixels.
        missing: True without a prediction.
    """

    uid: str
    kind: str
    has_target: bool
    scores: Mapping[str, float] = field(default_factory=dict)
    missing: bool = False


def measure(
    sample: Sample,
    pred_rles_F: Sequence[Rle | None],
    keyframes: Collection[int] | None = None,
) -> Scored:
    """Return all scores defined for one expression.

    J, F, J&F, A, A@visa255, intersection, union (summed over the frames), tIoU and vIoU (Long-RVOS:
    over frames with a predicted or a true mask), answered. R@binary and R@visa255 if the notes have
    `foreground_F` (ReVOS). keyframe_accuracy if `keyframes` are given. Pixels of the notes'
    `ignore_F` count nowhere.

    Raises:
        ValueError: the masks' size or number is not the video's.
    """
    video = sample.video
    if len(pred_rles_F) != video.num_frames:
        raise ValueError(
            f"{sample.uid}: {len(pred_rles_F)} predicted masks for a video of "
            f"{video.num_frames} frames"
        )
    for frame, rle in enumerate(pred_rles_F):
        if rle is not None:
            _check_size(sample, frame, tuple(rle["size"]))
    meter = Meter(sample)
    for start in range(0, video.num_frames, CHUNK):
        frames = range(start, min(start + CHUNK, video.num_frames))
        meter.add(frames, _decode(sample, pred_rles_F, frames))
    return meter.scored(keyframes)


class Meter:
    """Measures one expression frame by frame, from masks as they are made.

    A frame that was never added counts as one without a predicted mask.
    """

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.truth_F = union_of_targets(sample)
        self.added_F = np.zeros(len(self.truth_F), dtype=bool)
        self.columns: Columns = {}

    def add(self, frames: Sequence[int], pred_nHW: np.ndarray) -> None:
        """Measure the predicted masks of some frames, bool (n, H, W).

        Raises:
            ValueError: the masks' size is not the video's.
        """
        if not len(frames):
            return
        _check_size(self.sample, frames[0], pred_nHW.shape[1:])
        values = _measure_frames(self.sample, pred_nHW, self.truth_F, frames)
        for name, values_n in values.items():
            if name not in self.columns:
                self.columns[name] = np.zeros(len(self.truth_F), dtype=values_n.dtype)
            self.columns[name][list(frames)] = values_n
        self.added_F[list(frames)] = True

    def scored(self, keyframes: Collection[int] | None = None) -> Scored:
        """Return all scores, as `measure`."""
        video = self.sample.video
        left = np.flatnonzero(~self.added_F).tolist()
        for start in range(0, len(left), CHUNK):
            frames = left[start : start + CHUNK]
            self.add(frames, np.zeros((len(frames), video.height, video.width), dtype=bool))
        return _scored(self.sample, self.columns, keyframes)


def _scored(sample: Sample, columns: Columns, keyframes: Collection[int] | None) -> Scored:
    # A keyframe may be any frame, also one that does not count.
    visible_F = columns["gt"] > 0
    counted_F = _counted(sample)
    columns = {name: values_F[counted_F] for name, values_F in columns.items()}

    scores: dict[str, float] = {}
    for name, values_F in columns.items():
        if name not in COUNTS:
            scores[name] = float(values_F.mean())
    scores["J&F"] = (scores["J"] + scores["F"]) / 2
    scores["intersection"] = float(columns["intersection"].sum())
    scores["union"] = float(columns["union"].sum())
    scores |= _presence(columns["J"], columns["pred"] > 0, columns["gt"] > 0)
    if keyframes is not None and sample.targets:
        scores["keyframe_accuracy"] = metrics.keyframe_accuracy(keyframes, visible_F)
    return Scored(sample.uid, sample.kind, bool(sample.targets), scores)


def _presence(j_F: np.ndarray, predicted_F: np.ndarray, true_F: np.ndarray) -> dict[str, float]:
    """Scores of the frames with a predicted or a true mask."""
    either_F = predicted_F | true_F
    v_iou = 1.0
    if either_F.any():
        v_iou = float(j_F[either_F].mean())
    return {
        "tIoU": metrics.frame_iou(predicted_F, true_F),
        "vIoU": v_iou,
        ANSWERED: float(predicted_F.any()),
    }


def missing(sample: Sample) -> Scored:
    """Return an expression without a prediction: 0 everywhere but its true pixels in the union."""
    names = ["J", "F", "J&F", "A", "A@visa255", "tIoU", "vIoU", ANSWERED, "intersection"]
    if sample.notes.foreground_F is not None:
        names += ["R@binary", "R@visa255"]
    if sample.targets:
        names.append("keyframe_accuracy")
    true_pixels = 0
    for rle, is_counted in zip(union_of_targets(sample), _counted(sample), strict=True):
        if rle is not None and is_counted:
            true_pixels += area(rle)
    scores = dict.fromkeys(names, 0.0) | {"union": float(true_pixels)}
    return Scored(sample.uid, sample.kind, bool(sample.targets), scores, missing=True)


def mean(expressions: Sequence[Scored]) -> dict[str, float]:
    """Return the unweighted mean over the expressions.

    Source: MeViS tools/eval_mevis.py, VISA tools/eval_davis17.py, ReasonVOS.
    """
    names = ("J", "F", "J&F", "A", "R@binary", "R@visa255", "tIoU", "vIoU", "keyframe_accuracy")
    return _means(expressions, names)


def by_kind(expressions: Sequence[Scored]) -> dict[str, float]:
    """Return the mean over all expressions, then over each kind (Long-RVOS: static to hybrid)."""
    figures = mean(expressions)
    for kind in sorted({each.kind for each in expressions}):
        figures |= _prefixed(kind, mean(_of_kind(expressions, kind)))
    return figures


def revos(expressions: Sequence[Scored]) -> dict[str, float]:
    """Return J, F, J&F, A and R of ReVOS: the plain mean of "referring" and "reasoning".

    Each of the two is a mean over its expressions. If one of them is absent, the figure is the
    other's. VISA's script (tools/eval_revos.py) rounds every value to 0.01 first; this function
    does not.
    """
    names = ("J", "F", "J&F", "A", "A@visa255", "R@binary", "R@visa255")
    kinds = ("referring", "reasoning")
    unknown = sorted({each.kind for each in expressions if each.has_target} - set(kinds))
    if unknown:
        raise ValueError(
            "evaluate.protocol=revos: expressions are referring or reasoning, "
            f"not {', '.join(unknown)!r}"
        )

    figures_of: dict[str, dict[str, float]] = {}
    for kind in kinds:
        subset = _of_kind(expressions, kind)
        if subset:
            figures_of[kind] = _means(subset, names)

    overall: dict[str, float] = {}
    for name in names:
        values = [figures[name] for figures in figures_of.values() if name in figures]
        if len(values) == len(figures_of):
            overall[name] = float(np.mean(values))
    for kind, figures in figures_of.items():
        overall |= _prefixed(kind, figures)
    return overall


def ref_sav(expressions: Sequence[Scored]) -> dict[str, float]:
    """Return J, F, J&F and A of Ref-SAV: the plain mean of "long" and "short" sentences.

    Source: VideoSEG-O3 tools/eval/eval_ref_sav.py, which rounds every value to 0.01 first. If one
    of the two is absent, the figure is the other's.
    """
    figures_of: dict[str, dict[str, float]] = {}
    for kind in ("long", "short"):
        subset = _of_kind(expressions, kind)
        if subset:
            figures_of[kind] = _means(subset, ("J", "F", "J&F", "A"))
    if not figures_of:
        return mean(expressions)

    overall: dict[str, float] = {}
    for name in next(iter(figures_of.values())):
        values = [figures[name] for figures in figures_of.values() if name in figures]
        if len(values) == len(figures_of):
            overall[name] = float(np.mean(values))
    for kind, figures in figures_of.items():
        overall |= _prefixed(kind, figures)
    return overall


def images(expressions: Sequence[Scored]) -> dict[str, float]:
    """Return gIoU and cIoU over images, then by kind (ReasonSeg: LISA train_ds.py; refCOCO: cIoU).

    The mIoU of refCOCO is gIoU. "gIoU@empty0" gives 0 instead of 1 to an image with empty truth and
    empty prediction, as Seg-Zero does.
    """
    figures = _image_figures(expressions)
    kinds = sorted({each.kind for each in expressions} - {""})
    if len(kinds) > 1:
        for kind in kinds:
            figures |= _prefixed(kind, _image_figures(_of_kind(expressions, kind)))
    return figures


def _image_figures(expressions: Sequence[Scored]) -> dict[str, float]:
    inter = [each.scores["intersection"] for each in expressions]
    union = [each.scores["union"] for each in expressions]
    # A missing prediction is 0 in both gIoUs, also where the truth is empty.
    g_union = []
    for each, pixels in zip(expressions, union, strict=True):
        g_union.append(max(pixels, 1.0) if each.missing else pixels)
    return {
        "gIoU": 100 * metrics.g_iou(inter, g_union),
        "gIoU@empty0": 100 * metrics.g_iou(inter, g_union, empty=0.0),
        "cIoU": 100 * metrics.c_iou(inter, union),
    }


def no_target(expressions: Sequence[Scored]) -> dict[str, float]:
    """Return the figures of expressions without a target: N-acc (GRES), J and F.

    N-acc is the share of expressions with no mask at all in the prediction. J and F are 1 on a
    frame without a mask here, so they only say how many frames were left alone.
    """
    is_right = []
    for each in expressions:
        is_right.append(0 if each.missing else 1 - each.scores[ANSWERED])
    n_acc = 100 * float(np.mean(is_right))
    return {"N-acc": n_acc} | _means(expressions, ("J", "F", "J&F", "R@binary", "R@visa255"))


def t_acc(expressions: Sequence[Scored]) -> float:
    """Return T-acc (GRES): the share of expressions with a target and some mask, in percent."""
    return 100 * float(np.mean([each.scores[ANSWERED] for each in expressions]))


Protocol = Callable[[Sequence[Scored]], dict[str, float]]

# Ref-DAVIS17 by its authors; needs the masks of all objects of a video (core.evaluation.davis).
MERGED = "davis_4_annotators"
# Ref-DAVIS17 as VISA, Sa2VA and VideoSEG-O3 measure it; not comparable with MERGED.
BINARY = "binary_per_expression"

PROTOCOLS: dict[str, Protocol] = {
    "mean": mean,
    "by_kind": by_kind,
    "revos": revos,
    "ref_sav": ref_sav,
    "images": images,
    BINARY: mean,
    # Of single expressions; the benchmark's own figures come on top.
    MERGED: mean,
}

# All other formats: mean.
OF_FORMAT: dict[str, str] = {
    "revos": "revos",
    "longrvos": "by_kind",
    "groundmore": "by_kind",
    "ref_sav": "ref_sav",
    "ref_davis17": MERGED,
    "reasonseg": "images",
    "refcoco": "images",
}


def protocol_of(name: str, data_format: str) -> str:
    """Return the protocol of `evaluate.protocol`; "auto" is the published one of the data set."""
    if name != "auto":
        return name
    return OF_FORMAT.get(data_format, "mean")


def summarise(protocol: str, expressions: Sequence[Scored]) -> dict[str, Any]:
    """Return a benchmark's table: figures in percent, and "missing", the uids without a prediction.

    Expressions without a target add "T-acc" and a table "no_target".
    """
    with_target = [each for each in expressions if each.has_target]
    without_target = [each for each in expressions if not each.has_target]
    figures: dict[str, Any] = {}
    if with_target:
        figures |= PROTOCOLS[protocol](with_target)
    if without_target:
        figures["T-acc"] = t_acc(with_target) if with_target else 0.0
        figures["no_target"] = no_target(without_target) | {"expressions": len(without_target)}
    figures["missing"] = [each.uid for each in expressions if each.missing]
    return figures


def _measure_frames(
    sample: Sample,
    pred_nHW: np.ndarray,
    truth_F: Sequence[Rle | None],
    frames: Sequence[int],
) -> Columns:
    """All values of some frames, (n,) each."""
    size = sample.video.height * sample.video.width
    ignore_F = sample.notes.ignore_F
    ignore_FHW = _decode(sample, ignore_F, frames) if ignore_F is not None else None
    pred_FHW = metrics.without(pred_nHW, ignore_FHW)
    gt_FHW = metrics.without(_decode(sample, truth_F, frames), ignore_FHW)

    j_F, f_F = metrics.j_and_f(pred_FHW, gt_FHW)
    inter_F, union_F = metrics.overlap(pred_FHW, gt_FHW)
    pred_F = metrics.pixels(pred_FHW)
    values = {
        "J": j_F,
        "F": f_F,
        "intersection": inter_F,
        "union": union_F,
        "pred": pred_F,
        "gt": metrics.pixels(gt_FHW),
        "A": metrics.accuracy(inter_F, union_F, size),
        "A@visa255": metrics.accuracy(inter_F, union_F, size, "visa255"),
    }
    foreground_F = _foreground(sample, frames)
    if foreground_F is not None:
        values["R@binary"] = metrics.robustness(pred_F - inter_F, foreground_F)
        values["R@visa255"] = metrics.robustness(pred_F - inter_F, foreground_F, "visa255")
    return values


def _foreground(sample: Sample, frames: Sequence[int]) -> np.ndarray | None:
    """Pixels of all annotated objects, (n,); None if the data set does not annotate all."""
    rles_F = sample.notes.foreground_F
    if rles_F is None:
        return None
    areas = []
    for frame in frames:
        rle = rles_F[frame]
        areas.append(0 if rle is None else area(rle))
    return np.array(areas)


def _counted(sample: Sample) -> np.ndarray:
    """Counted frames, bool (F,)."""
    names = sample.video.frame_names
    listed = sample.notes.frames_listed
    if listed is None:
        return np.ones(len(names), dtype=bool)
    return np.array([name in listed for name in names])


def _decode(
    sample: Sample,
    rles_F: Sequence[Rle | None],
    frames: Sequence[int],
) -> np.ndarray:
    """Masks of some frames, bool (n, H, W)."""
    rles = [rles_F[frame] for frame in frames]
    return decode_frames(rles, sample.video.height, sample.video.width)


def _check_size(sample: Sample, frame: int, size: tuple[int, ...]) -> None:
    video = sample.video
    if size != (video.height, video.width):
        height, width = size
        raise ValueError(
            f"{sample.uid}: the predicted mask of frame {frame} is {height} x {width}, the "
            f"video {video.height} x {video.width} (height x width): predict at the size of "
            "the video"
        )


def _of_kind(expressions: Sequence[Scored], kind: str) -> list[Scored]:
    return [each for each in expressions if each.kind == kind]


def _means(expressions: Sequence[Scored], names: Iterable[str]) -> dict[str, float]:
    """Means in percent of the figures common to all expressions."""
    means: dict[str, float] = {}
    for name in names:
        values = [each.scores[name] for each in expressions if name in each.scores]
        if values and len(values) == len(expressions):
            means[name] = 100 * float(np.mean(values))
    return means


def _prefixed(kind: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{kind}/{name}": value for name, value in figures.items()}
