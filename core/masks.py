"""Binary masks as COCO run-length encodings, and boxes and areas read off them without decoding.

Masks travel encoded (about 1 KB instead of 400 KB at 480 x 854) and are decoded on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from core.geometry import Box
from core.types import Rle, Sample


def encode(mask_HW: np.ndarray) -> Rle:
    """Return the run-length encoding of a mask; every non-zero pixel is foreground."""
    assert mask_HW.ndim == 2, f"one mask has two dimensions, not shape {mask_HW.shape}"
    pixels_HW = np.asfortranarray(mask_HW != 0).view(np.uint8)
    return _from_coco(coco.encode(pixels_HW))


def encode_frames(masks_FHW: np.ndarray) -> tuple[Rle, ...]:
    """Return the encodings of many masks; one call is three times faster than one call each."""
    shape = masks_FHW.shape
    assert masks_FHW.ndim == 3, f"masks of frames have three dimensions, not shape {shape}"
    if not len(masks_FHW):
        return ()
    masks_HWF = np.asfortranarray(np.moveaxis(masks_FHW != 0, 0, -1))
    return tuple(_from_coco(rle) for rle in coco.encode(masks_HWF.view(np.uint8)))


def decode(rle: Rle) -> np.ndarray:
    """Return the mask as bool (height, width)."""
    return coco.decode(_to_coco(rle)).view(bool)


def decode_frames(rles_F: Sequence[Rle | None], height: int, width: int) -> np.ndarray:
    """Return masks as bool (F, height, width); None is an empty mask."""
    masks_FHW = np.zeros((len(rles_F), height, width), dtype=bool)
    for mask_HW, rle in zip(masks_FHW, rles_F, strict=True):
        if rle is None:
            continue
        size = tuple(rle["size"])
        assert size == (height, width), f"mask of size {rle['size']} in a {height} x {width} video"
        mask_HW[:] = decode(rle)
    return masks_FHW


def union(rles: Sequence[Rle | None]) -> Rle | None:
    """Return the union of masks of one size; None stands for an empty mask, also as the result."""
    present = [rle for rle in rles if rle is not None]
    if not present:
        return None
    if len(present) == 1:
        return present[0]
    sizes = {tuple(rle["size"]) for rle in present}
    assert len(sizes) == 1, "masks of different sizes have no union"
    return _from_coco(coco.merge([_to_coco(rle) for rle in present]))


def union_of_targets(sample: Sample) -> tuple[Rle | None, ...]:
    """Return the ground truth of an expression, frame by frame: the union of its targets.

    Source: MeViS, tools/eval_mevis.py.
    """
    if not sample.targets:
        return (None,) * sample.video.num_frames
    frames = zip(*(target.masks_F for target in sample.targets), strict=True)
    return tuple(union(rles) for rles in frames)


def box(rle: Rle) -> Box:
    """Return the tight box (x0, y0, x1, y1), x1 and y1 exclusive; all zeros for an empty mask."""
    x, y, width, height = (float(v) for v in coco.toBbox(_to_coco(rle)))
    return (x, y, x + width, y + height)


def area(rle: Rle) -> int:
    """Return the number of foreground pixels."""
    return int(coco.area(_to_coco(rle)))


def boxes_areas(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (F, 4) float64 and areas (F,) int64 of the union of the targets.

    Frames without a visible target have zeros.
    """
    rles_F = union_of_targets(sample)
    boxes_F4 = np.zeros((len(rles_F), 4))
    areas_F = np.zeros(len(rles_F), dtype=np.int64)
    for frame, rle in enumerate(rles_F):
        if rle is not None:
            boxes_F4[frame] = box(rle)
            areas_F[frame] = area(rle)
    return boxes_F4, areas_F


def _from_coco(rle: dict[str, Any]) -> Rle:
    # The counts of pycocotools are bytes; JSON needs text.
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _to_coco(rle: Rle) -> dict[str, Any]:
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}
