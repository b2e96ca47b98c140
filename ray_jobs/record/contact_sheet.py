"""One picture of a data set: a row for each of some sentences, with frames, outlined objects, boxes and centre points.

What a person looks at before a night of training: do sentences, frames and masks belong together? Objects of a
sentence have a colour each; box and point are those of the tables (`data.prepare.tables`), so these are seen as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.geometry import uniform_frames
from core.masks import decode
from core.types import Sample, Target
from data.frames.reading import read_frames
from data.prepare.tables import Key, TargetTable
from ray_jobs.record.overlay import FAINT, INK, PAPER, TRUE, wrap

# pixels: width of a frame, of the text, between them
CELL = 224
PANEL = 264
GAP = 4
COLOURS = (
    TRUE,
    (255, 196, 0),
    (66, 135, 245),
    (240, 90, 190),
    (255, 120, 40),
)  # RGB, of the objects in turn


def choose(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Up to `count` samples, kinds in turn, of different videos as long as there are any; the same for a seed."""
    order = [samples[i] for i in np.random.default_rng(seed).permutation(len(samples))]
    picked: list[Sample] = []
    while len(picked) < min(count, len(samples)):
        kinds = [s.kind for s in picked]
        videos = {s.video.uid for s in picked}
        rest = [s for s in order if all(s is not p for p in picked)]
        picked.append(min(rest, key=lambda s: (s.video.uid in videos, kinds.count(s.kind))))
    return picked


def row(sample: Sample, tables: Mapping[Key, TargetTable], num_frames: int) -> np.ndarray:
    """One sentence: text, then `num_frames` frames spread over the video; uint8 (height, width, 3).

    All rows of one `num_frames` are equally wide. ValueError for frames that cannot be read.
    """
    frames = uniform_frames(sample.video.num_frames, num_frames)
    cells = [
        _cell(image_HWC, sample, frame, tables)
        for frame, image_HWC in zip(frames, read_frames(sample.video, frames), strict=True)
    ]
    height = max(len(cells[0]), 96)
    canvas = np.full((height + GAP, PANEL + num_frames * (CELL + GAP), 3), PAPER, np.uint8)
    canvas[:height, :PANEL] = _text(sample, height)
    for i, cell in enumerate(cells):
        left = PANEL + i * (CELL + GAP)
        canvas[: len(cell), left : left + CELL] = cell
    return canvas


def stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of one width below one another."""
    return np.vstack(rows)


def _cell(
    image_HWC: np.ndarray, sample: Sample, frame: int, tables: Mapping[Key, TargetTable]
) -> np.ndarray:
    scale = CELL / image_HWC.shape[1]
    size = (CELL, max(1, round(scale * image_HWC.shape[0])))
    picture = cv2.resize(
        image_HWC, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    )
    for number, target in enumerate(sample.targets):
        colour = COLOURS[number % len(COLOURS)]
        _outline(picture, target, frame, colour)
        table = tables.get((sample.video.uid, target.uid))
        if table is not None and table.areas_F[frame]:
            x0, y0, x1, y1 = (round(scale * float(v)) for v in table.boxes_F4[frame])
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, 1)
            x, y = (
                round(scale * (float(v) + 0.5)) for v in table.centres_F2[frame]
            )  # the middle of the pixel
            cv2.drawMarker(picture, (x, y), colour, cv2.MARKER_CROSS, 10, 2)
    cv2.putText(
        picture, str(frame), (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA
    )
    cv2.putText(picture, str(frame), (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
    return picture


def _outline(
    picture_HWC: np.ndarray, target: Target, frame: int, colour: tuple[int, int, int]
) -> None:
    rle = target.masks_F[frame]
    if rle is None:
        return
    mask_HW = cv2.resize(
        decode(rle).astype(np.uint8), picture_HWC.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    outlines, _ = cv2.findContours(mask_HW, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture_HWC, outlines, -1, colour, 2)


def _text(sample: Sample, height: int) -> np.ndarray:
    image = Image.new("RGB", (PANEL, height), PAPER)
    draw = ImageDraw.Draw(image)
    y = 6
    objects = f"{len(sample.targets)} object{'' if len(sample.targets) == 1 else 's'}"
    about = " · ".join(filter(None, [sample.uid, sample.kind, objects]))
    for text, size, colour in ((f"“{sample.query}”", 16, INK), (about, 12, FAINT)):
        font = ImageFont.load_default(size)
        for line in wrap(text, font, PANEL - 20):
            if y + size > height:
                return np.asarray(image)
            draw.text((10, y), line, colour, font)
            y += round(1.25 * size)
        y += 4
    return np.asarray(image)
