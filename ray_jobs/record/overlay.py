"""A video that shows what an episode did: masks and box on the frames, beside them what was asked and said.

Prediction tinted, ground truth (where there is one) outlined, the keyframe held with its box, and a curve with the
current frame: of J, or without ground truth of the mask's size. Frames are read, drawn and written a few at a time.
This file draws; it knows no system (the keyframe is where the answer's prompts are) and measures only J.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.evaluation.metrics import jaccard
from core.masks import area, decode_frames
from core.types import Episode, Rle, Sample
from data.frames.reading import Clip

FPS = 6  # slow enough to look at
HOLD_S = 1.0  # of the keyframe
SHORT_SIDE = 448  # smaller videos are enlarged to it, pixels kept square and sharp
PANEL = 448  # pixels, width of the text
CHUNK = 16  # frames in memory at a time
# RGB of mask, outline, keyframe and box
PREDICTED = (66, 135, 245)
TRUE = (64, 220, 96)
KEY = (255, 196, 0)
INK = (235, 235, 235)
FAINT = (150, 150, 150)
PAPER = (24, 24, 28)


Rles = Sequence[Rle | None]


def overlay_video(
    path: Path,
    sample: Sample,
    episode: Episode,
    pred_rles_F: Rles,
    gt_rles_F: Rles | None,
    fps: int | Fraction = FPS,
) -> Path:
    """Writes an mp4 (H.264, yuv420p: plays in any browser) of all frames of the sample's video.

    Masks are run-length encodings in the video's pixels, None where there is none, one for each frame; `gt_rles_F` as a
    whole is None where the truth is not known. Raises `ValueError` for a path that is no .mp4 and for frames that
    cannot be read.
    """
    if path.suffix != ".mp4":
        raise ValueError(f"{path}: an overlay is an .mp4 file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = None
        for image_HWC in pictures(sample, episode, pred_rles_F, gt_rles_F, fps):
            if stream is None:
                stream = file.add_stream(
                    "libx264", rate=Fraction(fps), options={"crf": "18", "preset": "veryfast"}
                )
                stream.height, stream.width, stream.pix_fmt = *image_HWC.shape[:2], "yuv420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image_HWC, format="rgb24")))
        assert stream is not None, "a video has a frame"
        file.mux(stream.encode(None))
    return path


def pictures(
    sample: Sample, episode: Episode, pred_rles_F: Rles, gt_rles_F: Rles | None, fps: int | Fraction
) -> Iterator[np.ndarray]:
    """The pictures of the overlay, uint8 (height, width, 3) RGB with even sides; the keyframe comes HOLD_S long."""
    video = sample.video
    keyframes = keyframes_of(episode)
    assert len(pred_rles_F) == video.num_frames, "one mask, or None, for each frame"
    height = video.height
    width = video.width
    scale = _scale(sample)
    curve = (
        _curve_of_j(pred_rles_F, gt_rles_F, height, width)
        if gt_rles_F is not None
        else _curve_of_size(pred_rles_F)
    )
    text = _text_panel(sample, episode, max(height * scale, SHORT_SIDE) - 150)
    drawn = _curve_panel(curve, keyframes)
    for frame, image_HWC in _frames(sample):
        pred_HW = decode_frames([pred_rles_F[frame]], height, width)[0]
        truth_HW = decode_frames(
            [gt_rles_F[frame] if gt_rles_F is not None else None], height, width
        )[0]
        large = _draw_masks(
            _enlarge(image_HWC, scale), _enlarge(pred_HW, scale), _enlarge(truth_HW, scale)
        )
        if frame in keyframes:
            large = _draw_prompts(large, episode, frame, scale)
        picture = _beside(
            large, np.vstack([text, _figures(drawn.copy(), curve, frame, frame in keyframes)])
        )
        yield from itertools.repeat(
            picture, max(1, round(HOLD_S * fps)) if frame in keyframes else 1
        )


def keyframe_pictures(sample: Sample, episode: Episode, pred_rles_F: Rles) -> dict[int, np.ndarray]:
    """Each keyframe with its mask, boxes and points, uint8 (height, width, 3) RGB, small ones enlarged."""
    found = {}
    scale = _scale(sample)
    for frame in sorted(keyframes_of(episode)):
        mask_HW = decode_frames([pred_rles_F[frame]], sample.video.height, sample.video.width)[0]
        image_HWC = Clip(sample.video)[frame : frame + 1][0]
        large = _draw_masks(_enlarge(image_HWC, scale), _enlarge(mask_HW, scale), None)
        found[frame] = _draw_prompts(large, episode, frame, scale)
    return found


def _scale(sample: Sample) -> int:
    return max(1, -(-SHORT_SIDE // min(sample.video.height, sample.video.width)))


def keyframes_of(episode: Episode) -> set[int]:
    """Frames on which the answer prompts the segmenter; without prompts the answer's keyframe."""
    answer = episode.answer
    prompted = {prompt.frame for prompt in answer.prompts}
    if not prompted and answer.keyframe is not None:
        return {answer.keyframe}
    return prompted


@dataclass(frozen=True)
class _Curve:
    """What the lower part of the panel says of every frame."""

    heights_F: np.ndarray  # of the bars, 0 to 1
    words_F: tuple[str, ...]
    remarks_F: tuple[str, ...]  # behind the frame's number
    outlined: bool  # whether the ground truth is drawn


def _curve_of_j(pred_rles_F: Rles, gt_rles_F: Rles, height: int, width: int) -> _Curve:
    assert len(gt_rles_F) == len(pred_rles_F), "one mask, or None, for each frame"
    parts = []
    for start in range(0, len(gt_rles_F), CHUNK):
        pred_FHW, gt_FHW = (
            decode_frames(r[start : start + CHUNK], height, width) for r in (pred_rles_F, gt_rles_F)
        )
        parts.append(jaccard(pred_FHW, gt_FHW))
    j_F = np.concatenate(parts)
    words = tuple(f"J {100 * j:.0f}    mean J {100 * j_F.mean():.1f}" for j in j_F)
    remarks = tuple(
        "" if rle is not None and area(rle) else ", target not visible" for rle in gt_rles_F
    )
    return _Curve(j_F, words, remarks, True)


def _curve_of_size(pred_rles_F: Rles) -> _Curve:
    share_F = np.array(
        [area(rle) / float(np.prod(rle["size"])) if rle else 0.0 for rle in pred_rles_F]
    )
    words = tuple(f"mask: {100 * share:.1f} % of the frame" for share in share_F)
    remarks = tuple("" if share else ", nothing found" for share in share_F)
    return _Curve(share_F / max(share_F.max(), 1e-9), words, remarks, False)


def _frames(sample: Sample) -> Iterator[tuple[int, np.ndarray]]:
    clip = Clip(sample.video)
    for start in range(0, sample.video.num_frames, CHUNK):
        yield from enumerate(clip[start : start + CHUNK], start)


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else image


def _draw_masks(
    image_HWC: np.ndarray, pred_HW: np.ndarray, truth_HW: np.ndarray | None
) -> np.ndarray:
    tinted = image_HWC.copy()
    tinted[pred_HW] = (0.45 * image_HWC[pred_HW] + 0.55 * np.array(PREDICTED)).astype(np.uint8)
    if truth_HW is None:
        return tinted
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
            cv2.drawMarker(
                image_HWC, (round(scale * x), round(scale * y)), KEY, mark, 10 * line, line
            )
    return image_HWC


def _line(image_HWC: np.ndarray) -> int:
    """Width of a line that is seen at this size."""
    return max(2, min(image_HWC.shape[:2]) // 250)


def _text_panel(sample: Sample, episode: Episode, height: int) -> np.ndarray:
    """The query and the episode's own turns, (height, PANEL, 3); what does not fit is cut with an ellipsis."""
    image = Image.new("RGB", (PANEL, height), PAPER)
    draw = ImageDraw.Draw(image)
    y = 12
    paragraphs = [(f"“{sample.query}”", 20, INK)]
    for number, turn in enumerate((t for t in episode.turns if t.trainable), 1):
        paragraphs += [
            (f"turn {number}", 13, FAINT),
            (" ".join(turn.text.split()) or "(nothing)", 15, INK),
        ]
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


# of the curve in the lower part of the panel
LEFT = 12
TOP = 56
BOTTOM = 108


def _curve_panel(curve: _Curve, keyframes: set[int]) -> Image.Image:
    """The lower part of the panel, (150, PANEL, 3), without what changes from frame to frame: curve and legend."""
    image = Image.new("RGB", (PANEL, 150), PAPER)
    draw = ImageDraw.Draw(image)
    small = ImageFont.load_default(13)
    draw.line((LEFT, BOTTOM + 1, PANEL - 12, BOTTOM + 1), FAINT)
    for i in [
        *range(len(curve.heights_F)),
        *sorted(keyframes),
    ]:  # keyframes again: over their neighbours
        draw.rectangle(_bar(curve, i), KEY if i in keyframes else PREDICTED)
    x = 12.0
    truth = [("ground truth", TRUE)] if curve.outlined else []
    for name, colour in [("prediction", PREDICTED), *truth, ("keyframe and box", KEY)]:
        draw.rectangle((x, 124, x + 12, 136), colour)
        draw.text((x + 18, 121), name, INK, small)
        x += 18 + small.getlength(name) + 22
    return image


def _bar(curve: _Curve, i: int) -> tuple[float, float, float, float]:
    step = (PANEL - 24) / len(curve.heights_F)
    x0 = LEFT + i * step
    x1 = max(x0, LEFT + (i + 1) * step - (2 if step > 4 else 0))
    return x0, BOTTOM - max(1.0, (BOTTOM - TOP) * float(curve.heights_F[i])), x1, BOTTOM


def _figures(image: Image.Image, curve: _Curve, frame: int, key: bool) -> np.ndarray:
    """Draws what is said of one frame on the lower part of the panel."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(17)
    where = f"frame {frame} of 0 to {len(curve.heights_F) - 1}" + (", keyframe" if key else "")
    draw.text((12, 6), where + curve.remarks_F[frame], KEY if key else INK, font)
    draw.text((12, 28), curve.words_F[frame], INK, font)
    x0, top, x1, bottom = _bar(curve, frame)
    draw.rectangle((x0, top, x1, bottom), INK)
    draw.rectangle(
        (x0, bottom + 3, x1, bottom + 6), INK
    )  # also where the curve is 0 and the bar is not seen
    return np.asarray(image)


def _beside(left_HWC: np.ndarray, right_HWC: np.ndarray) -> np.ndarray:
    """Two pictures in a row on dark paper; even sides, as the video codec wants them."""
    height = max(len(left_HWC), len(right_HWC))
    width = left_HWC.shape[1] + right_HWC.shape[1]
    canvas = np.full((height + height % 2, width + width % 2, 3), PAPER, np.uint8)
    canvas[: len(left_HWC), : left_HWC.shape[1]] = left_HWC
    canvas[: len(right_HWC), left_HWC.shape[1] : width] = right_HWC
    return canvas
