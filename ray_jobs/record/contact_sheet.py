"""One picture of a data set: rows of sentences with frames, outlines, boxes and points.

It answers a question before a night of training: do sentences, frames and masks belong together?
Each object of a sentence has its own colour. Box and point are those of `data.prepare.tables`, so
the sheet shows errors of the tables as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from core.geometry import uniform_frames
from core.masks import decode
from core.types import Sample, Target
from data.frames.reading import read_frames
from data.prepare.tables import TableKey, TargetTable
from ray_jobs.record.lettering import Lettering
from ray_jobs.record.overlay import FAINT, INK, PAPER, TRUE, Colour, wrap

# Pixels: width of a frame, width of the text, the gap between them, least height of a row.
CELL = 224
PANEL = 264
GAP = 4
LEAST_HEIGHT = 96

# RGB of the objects of a sentence, in turn.
COLOURS: tuple[Colour, ...] = (
    TRUE,
    (255, 196, 0),
    (66, 135, 245),
    (240, 90, 190),
    (255, 120, 40),
)


def choose_samples(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Return up to `count` samples, the same for a seed.

    Kinds take turns, and videos differ as long as new ones are left.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    left = [samples[i] for i in order]
    picked: list[Sample] = []
    while left and len(picked) < count:
        videos = {sample.video.uid for sample in picked}
        kinds = [sample.kind for sample in picked]
        # A new video first, then the rarest kind; of equal ones the first.
        costs = [(sample.video.uid in videos, kinds.count(sample.kind)) for sample in left]
        best = costs.index(min(costs))
        picked.append(left.pop(best))
    return picked


def sheet_row(
    sample: Sample, tables: Mapping[TableKey, TargetTable], num_frames: int
) -> np.ndarray:
    """Return the row of one sentence: text, then `num_frames` frames spread over the video.

    Returns:
        uint8 (height, width, 3) RGB; rows of one `num_frames` are equally wide.

    Raises:
        ValueError: frames cannot be read.
    """
    frames = uniform_frames(sample.video.num_frames, num_frames)
    images_FHWC = read_frames(sample.video, frames)
    cells = []
    for frame, image_HWC in zip(frames, images_FHWC, strict=True):
        cells.append(_cell(image_HWC, sample, frame, tables))

    height = max(len(cells[0]), LEAST_HEIGHT)
    canvas = np.full((height + GAP, PANEL + num_frames * (CELL + GAP), 3), PAPER, np.uint8)
    canvas[:height, :PANEL] = _text(sample, height)
    for i, cell in enumerate(cells):
        left = PANEL + i * (CELL + GAP)
        canvas[: len(cell), left : left + CELL] = cell
    return canvas


def stack_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return rows of one width below one another."""
    return np.vstack(rows)


def _cell(
    image_HWC: np.ndarray, sample: Sample, frame: int, tables: Mapping[TableKey, TargetTable]
) -> np.ndarray:
    """Return a frame at the width of a cell, with its objects and its number."""
    scale = CELL / image_HWC.shape[1]
    size = (CELL, max(1, round(scale * image_HWC.shape[0])))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    picture = cv2.resize(image_HWC, size, interpolation=method)

    for number, target in enumerate(sample.targets):
        colour = COLOURS[number % len(COLOURS)]
        _outline(picture, target, frame, colour)
        table = tables.get((sample.video.uid, target.uid))
        if table is not None and table.areas_F[frame]:
            _box_and_point(picture, table, frame, scale, colour)

    # Light digits on a dark edge can be read on any frame.
    for ink, width in [((0, 0, 0), 3), (INK, 1)]:
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, str(frame), (4, 13), font, 0.42, ink, width, cv2.LINE_AA)
    return picture


def _box_and_point(
    picture: np.ndarray, table: TargetTable, frame: int, scale: float, colour: Colour
) -> None:
    x0, y0, x1, y1 = (round(scale * float(value)) for value in table.boxes_F4[frame])
    cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, 1)
    # The marker goes to the middle of the pixel.
    x, y = (round(scale * (float(value) + 0.5)) for value in table.centres_F2[frame])
    cv2.drawMarker(picture, (x, y), colour, cv2.MARKER_CROSS, 10, 2)


def _outline(picture_HWC: np.ndarray, target: Target, frame: int, colour: Colour) -> None:
    rle = target.masks_F[frame]
    if rle is None:
        return
    size = picture_HWC.shape[1::-1]
    mask_HW = cv2.resize(decode(rle).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(mask_HW, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture_HWC, outlines, -1, colour, 2)


def _text(sample: Sample, height: int) -> np.ndarray:
    """Return the text of a row, (height, PANEL, 3); lines that do not fit are left out."""
    image = Image.new("RGB", (PANEL, height), PAPER)
    draw = ImageDraw.Draw(image)
    plural = "" if len(sample.targets) == 1 else "s"
    about = [sample.uid, sample.kind, f"{len(sample.targets)} object{plural}"]
    paragraphs = [
        (f"“{sample.query}”", 16, INK),
        (" · ".join(word for word in about if word), 12, FAINT),
    ]
    y = 6
    for text, size, colour in paragraphs:
        letters = Lettering(size)
        for line in wrap(text, letters, PANEL - 20):
            if y + size > height:
                return np.asarray(image)
            letters.draw(draw, (10, y), line, colour)
            y += round(1.35 * size)
        y += 4
    return np.asarray(image)
