"""Ref-DAVIS17 by its authors ("davis_4_annotators"): all objects of a video in one label map.

Each of the four annotators has one expression for each object. The masks of one annotator's
expressions are merged into one label map and measured as in the unsupervised task of DAVIS 2017:
all frames, labels matched to true objects so that J&F is largest, mean over the objects of all
videos, mean over the annotators.

Source: ReferFormer, inference_davis.py and eval_davis.py; davis2017-evaluation, evaluation.py,
_evaluate_unsupervised. The matching can mend swapped objects, and merging takes pixels away from
overlapping masks, so the figures differ from those of "binary_per_expression".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.evaluation.metrics import j_and_f, without
from core.masks import decode_frames
from core.types import Rle

# Masks of one object, frame by frame.
ObjectMasks = Sequence[Rle | None]


def merge(objects_O: Sequence[ObjectMasks], height: int, width: int) -> np.ndarray:
    """Return a label map uint8 (F, height, width): 0 is background, o + 1 is object o.

    This is the argmax of binary masks against a background of 0.1: the first of overlapping objects
    keeps the pixel.
    """
    labels_FHW = np.zeros((len(objects_O[0]), height, width), dtype=np.uint8)
    for number, masks_F in enumerate(objects_O, 1):
        masks_FHW = decode_frames(masks_F, height, width)
        labels_FHW[masks_FHW & (labels_FHW == 0)] = number
    return labels_FHW


def match(
    labels_FHW: np.ndarray,
    truth_O: Sequence[ObjectMasks],
    void_FHW: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return J and F of each true object with its label, float64 (O,) each.

    Labels are assigned to objects so that the sum of J&F is largest. An object without a label is
    measured against an empty mask.

    Args:
        labels_FHW: the predicted label map.
        truth_O: masks of the true objects.
        void_FHW: pixels to leave out.
    """
    height, width = labels_FHW.shape[1:]
    num_labels = max(int(labels_FHW.max()), len(truth_O))
    j_LO = np.zeros((num_labels, len(truth_O)))
    f_LO = np.zeros((num_labels, len(truth_O)))
    for column, masks_F in enumerate(truth_O):
        gt_FHW = without(decode_frames(masks_F, height, width), void_FHW)
        for row in range(num_labels):
            pred_FHW = without(labels_FHW == row + 1, void_FHW)
            j_F, f_F = j_and_f(pred_FHW, gt_FHW)
            j_LO[row, column] = j_F.mean()
            f_LO[row, column] = f_F.mean()

    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-(j_LO + f_LO) / 2)
    order = np.argsort(columns)
    pairs = (rows[order], columns[order])
    return j_LO[pairs], f_LO[pairs]


def four_annotators(objects: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    """Return J, F and J&F in percent from (J, F) of every object of every video, by annotator."""
    means = [np.mean(values, axis=0) for values in objects.values()]
    j, f = (100 * float(v) for v in np.array(means).mean(axis=0))
    return {"J": j, "F": f, "J&F": (j + f) / 2}
