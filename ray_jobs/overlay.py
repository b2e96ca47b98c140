"""A video that shows what an episode did: masks and box on the frames, beside them what was asked and said.

Prediction tinted, ground truth outlined, the keyframe held with its box, and a curve of J with the current frame.
This file draws; it knows no system (the keyframe is where the answer's prompts are) and measures only J.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.masks import decode_frames
from core.metrics import jaccard
from core.types import Episode, Rle, Sample
from data.frames import read_frames

FPS = 6  # slow enough to look at
HOLD_S = 1.0  # of the keyframe
SHORT_SIDE = 448  # smaller videos are enlarged to it, pixels kept square and sharp
PANEL = 448  # pixels, width of the text
CHUNK = 32  # frames in memory at a time
PREDICTED, TRUE, KEY = (66, 135, 245), (64, 220, 96), (255, 196, 0)  # RGB of mask, outline, keyframe and box
INK, FAINT, PAPER = (235, 235, 235), (150, 150, 150), (24, 24, 28)


def overlay_video(
    path: Path,
    sample: Sample,
    episode: Episode,
    pred_rles_F: Sequence[Rle | None],
    gt_rles_F: Sequence[Rle | None],
    fps: int = FPS,
) -> Path:
    """Writes an mp4 (H.264, yuv420p: plays in any browser) of all frames of the sample's video.

    Masks are run-length encodings in the video's pixels, None where there is none, one for each frame. Raises
    `ValueError` for a path that is no .mp4 and for frames that cannot be read.
    """
    if path.suffix != ".mp4":
        raise ValueError(f"{path}: an overlay is an .mp4 file")
    assert len(pred_rles_F) == len(gt_rles_F) == sample.video.num_frames, "one mask, or None, for each frame"
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = None
        for image_HWC in pictures(sample, episode, pred_rles_F, gt_rles_F, fps):
            if stream is None:
                stream = file.add_stream("libx264", rate=Fraction(fps), options={"crf": "18", "preset": "veryfast"})
                stream.height, stream.width, stream.pix_fmt = *image_HWC.shape[:2], "yuv420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image_HWC, format="rgb24")))
        assert stream is not None, "a video has a frame"
        file.mux(stream.encode(None))
    return path


def pictures(
    sample: Sample, episode: Episode, pred_rles_F: Sequence[Rle | None], gt_rles_F: Sequence[Rle | None], fps: int
) -> Iterator[np.ndarray]:
    """The pictures of the overlay, uint8 (height, width, 3) RGB with even sides; the keyframe comes HOLD_S long."""
    video, keyframes = sample.video, keyframes_of(episode)
    height, width = video.height, video.width
    scale = max(1, -(-SHORT_SIDE // min(height, width)))
    j_F = _jaccard_F(pred_rles_F, gt_rles_F, height, width)
    text = _text_panel(sample, episode, max(height * scale, SHORT_SIDE) - 150)
    for frame, image_HWC in _frames(sample):
        pred_HW = decode_frames([pred_rles_F[frame]], height, width)[0]
        truth_HW = decode_frames([gt_rles_F[frame]], height, width)[0]
        large = _draw_masks(_enlarge(image_HWC, scale), _enlarge(pred_HW, scale), _enlarge(truth_HW, scale))
        if frame in keyframes:
            large = _draw_prompts(large, episode, frame, scale)
        picture = _beside(large, np.vstack([text, _figures(frame, j_F, keyframes, truth_HW.any())]))
        yield from itertools.repeat(picture, max(1, round(HOLD_S * fps)) if frame in keyframes else 1)


def keyframes_of(episode: Episode) -> set[int]:
    """Frames on which the answer prompts the segmenter; else the one it names in its facts, if it got that far."""
    named = episode.answer.facts.get("frame")
    return {p.frame for p in episode.answer.prompts} or ({named} if isinstance(named, int) else set())


def _jaccard_F(
    pred_rles_F: Sequence[Rle | None], gt_rles_F: Sequence[Rle | None], height: int, width: int
) -> np.ndarray:
    parts = []
    for start in range(0, len(gt_rles_F), CHUNK):
        pred_FHW, gt_FHW = (decode_frames(r[start : start + CHUNK], height, width) for r in (pred_rles_F, gt_rles_F))
        parts.append(jaccard(pred_FHW, gt_FHW))
    return np.concatenate(parts)


def _frames(sample: Sample) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, sample.video.num_frames, CHUNK):
        chunk = range(start, min(start + CHUNK, sample.video.num_frames))
        yield from zip(chunk, read_frames(sample.video, chunk), strict=True)


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else image


def _draw_masks(image_HWC: np.ndarray, pred_HW: np.ndarray, truth_HW: np.ndarray) -> np.ndarray:
    tinted = image_HWC.copy()
    tinted[pred_HW] = (0.45 * image_HWC[pred_HW] + 0.55 * np.array(PREDICTED)).astype(np.uint8)
    outlines, _ = cv2.findContours(truth_HW.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(tinted, outlines, -1, TRUE, _line(image_HWC))


def _draw_prompts(image_HWC: np.ndarray, episode: Episode, frame: int, scale: int) -> np.ndarray:
    """A frame round the keyframe, and the boxes and points of the answer; points off the object are crosses."""
    height, width = image_HWC.shape[:2]
    line = _line(image_HWC)
    cv2.rectangle(image_HWC, (0, 0), (width - 1, height - 1), KEY, 3 * line)
    for prompt in (p for p in episode.answer.prompts if p.frame == frame):
        if prompt.box is not None:
            x0, y0, x1, y1 = (round(scale * v) for v in prompt.box)
            cv2.rectangle(image_HWC, (x0, y0), (x1 - 1, y1 - 1), KEY, line)
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            mark = cv2.MARKER_STAR if label else cv2.MARKER_TILTED_CROSS
            cv2.drawMarker(image_HWC, (round(scale * x), round(scale * y)), KEY, mark, 10 * line, line)
    return image_HWC


def _line(image_HWC: np.ndarray) -> int:
    """Width of a line that is seen at this size."""
    return max(2, min(image_HWC.shape[:2]) // 250)


def _text_panel(sample: Sample, episode: Episode, height: int) -> np.ndarray:
    """The query and the episode's turns, (height, PANEL, 3); what does not fit is cut with an ellipsis."""
    image = Image.new("RGB", (PANEL, height), PAPER)
    draw, y = ImageDraw.Draw(image), 12
    paragraphs = [(f"“{sample.query}”", 20, INK)]
    for number, turn in enumerate(episode.turns, 1):
        paragraphs += [(f"turn {number}", 13, FAINT), (" ".join(turn.text.split()) or "(nothing)", 15, INK)]
    paragraphs += [(f"episode: {episode.end.value}", 13, FAINT)]
    for text, size, colour in paragraphs:
        font = ImageFont.load_default(size)
        for line in wrap(text, font, PANEL - 24):
            if y + 2 * size > height:
                draw.text((12, y), "…", INK, font)
                return np.asarray(image)
            draw.text((12, y), line, colour, font)
            y += round(1.3 * size)
        y += 6
    return np.asarray(image)


def wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces; a word that is wider is broken anywhere."""
    lines = [""]
    for word in text.split(" "):
        if font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _figures(frame: int, j_F: np.ndarray, keyframes: set[int], visible: bool) -> np.ndarray:
    """The lower part of the panel, (150, PANEL, 3): frame number, J, its curve over the video, legend."""
    image = Image.new("RGB", (PANEL, 150), PAPER)
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(17), ImageFont.load_default(13)
    where = f"frame {frame} of 0 to {len(j_F) - 1}" + (", keyframe" if frame in keyframes else "")
    where += "" if visible else ", target not visible"
    draw.text((12, 6), where, KEY if frame in keyframes else INK, font)
    draw.text((12, 28), f"J {100 * j_F[frame]:.0f}    mean J {100 * j_F.mean():.1f}", INK, font)
    left, top, bottom, step = 12, 56, 108, (PANEL - 24) / len(j_F)
    draw.line((left, bottom + 1, PANEL - 12, bottom + 1), FAINT)
    for i, j in enumerate(j_F):
        colour = INK if i == frame else KEY if i in keyframes else PREDICTED
        x0, x1 = left + i * step, max(left + i * step, left + (i + 1) * step - (2 if step > 4 else 0))
        draw.rectangle((x0, bottom - max(1.0, (bottom - top) * float(j)), x1, bottom), colour)
        if i == frame:  # also where J is 0 and the bar is not seen
            draw.rectangle((x0, bottom + 3, x1, bottom + 6), INK)
    x = 12.0
    for name, colour in (("prediction", PREDICTED), ("ground truth", TRUE), ("keyframe and box", KEY)):
        draw.rectangle((x, 124, x + 12, 136), colour)
        draw.text((x + 18, 121), name, INK, small)
        x += 18 + small.getlength(name) + 22
    return np.asarray(image)


def _beside(left_HWC: np.ndarray, right_HWC: np.ndarray) -> np.ndarray:
    """Two pictures in a row on dark paper; even sides, as the video codec wants them."""
    height = max(len(left_HWC), len(right_HWC))
    width = left_HWC.shape[1] + right_HWC.shape[1]
    canvas = np.full((height + height % 2, width + width % 2, 3), PAPER, np.uint8)
    canvas[: len(left_HWC), : left_HWC.shape[1]] = left_HWC
    canvas[: len(right_HWC), left_HWC.shape[1] : width] = right_HWC
    return canvas
