"""A video of one episode: masks and boxes on the frames, beside them the query, turns and a curve.

The prediction is tinted, the ground truth outlined, the keyframe held with its box. The curve shows
J of every frame, or the size of the mask if the ground truth is unknown. Frames are read, rendered
and written a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.evaluation.metrics import jaccard
from core.masks import area, decode_frames
from core.printable import printable
from core.types import Episode, Rle, Sample
from data.frames.reading import Clip
from ray_jobs.record.lettering import Lettering, clusters, is_right_to_left
from ray_jobs.record.sound import Sound

Rles = Sequence[Rle | None]
Colour = tuple[int, int, int]

# Slow enough to look at; the keyframe is held for a second.
FPS = 6
HOLD_S = 1.0

# Smaller videos are enlarged to this short side, pixels kept square and sharp.
SHORT_SIDE = 448

# Frames in memory at a time.
CHUNK = 16

# RGB of mask, outline, keyframe and box; of text, faint text and background.
PREDICTED = (66, 135, 245)
TRUE = (64, 220, 96)
KEY = (255, 196, 0)
INK = (235, 235, 235)
FAINT = (150, 150, 150)
PAPER = (24, 24, 28)

# RGB of the objects of an answer with several, in turn: that of one, and others far from it.
OBJECTS: tuple[Colour, ...] = (
    PREDICTED,
    (240, 90, 70),
    (186, 85, 211),
    (0, 190, 190),
    (245, 150, 60),
    (230, 120, 180),
)
# Times in the file are multiples of it, in seconds.
TICK = Fraction(1, 90_000)

# The panel beside the frames, in pixels: its width, the height of its lower part, its margin, and
# the place of the curve in the lower part.
PANEL = 448
LOWER = 150
LEFT = 12
TOP = 56
BOTTOM = 108


@dataclass(frozen=True)
class Timing:
    """When the frames of an overlay are shown.

    Attributes:
        rate: Frames a second; the mean, if it varies.
        times_F: Seconds of each frame from a start of any kind, if the rate varies.
        sound: The file whose sound is kept, or "". Then a keyframe is not held.
    """

    rate: int | Fraction = FPS
    times_F: tuple[float, ...] | None = None
    sound: str = ""

    @property
    def repeats(self) -> int:
        """How often a keyframe is shown."""
        if self.sound or self.times_F is not None:
            return 1
        return max(1, round(HOLD_S * self.rate))

    @property
    def hold_s(self) -> float:
        """Seconds that a keyframe is held beyond its own time."""
        if self.sound:
            return 0.0
        if self.times_F is not None:
            return HOLD_S
        return (self.repeats - 1) / float(self.rate)

    def start_of(self, frame: int) -> float:
        """Return the seconds from the first frame to a frame."""
        if self.times_F is None:
            return float(frame / Fraction(self.rate))
        return self.times_F[frame] - self.times_F[0]


def overlay_video(
    path: Path,
    sample: Sample,
    episode: Episode,
    pred_rles_F: Rles,
    gt_rles_F: Rles | None,
    timing: Timing | None = None,
    objects_OF: Sequence[Rles] = (),
) -> Path:
    """Write an mp4 of all frames of the sample's video (H.264, yuv420p: any browser plays it).

    Args:
        pred_rles_F: predicted mask of each frame, in the video's pixels.
        gt_rles_F: true mask of each frame, or None if the truth is unknown.
        objects_OF: the masks of each object, for colours of their own.

    Raises:
        ValueError: the path is no .mp4, or frames cannot be read.
    """
    if path.suffix != ".mp4":
        raise ValueError(f"{path}: an overlay is an .mp4 file")
    path.parent.mkdir(parents=True, exist_ok=True)
    keyframes = keyframes_of(episode)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        film = _Film(file, timing or Timing())
        pictures = _pictures(sample, episode, pred_rles_F, gt_rles_F, objects_OF)
        for frame, image_HWC in pictures:
            film.show(frame, image_HWC, frame in keyframes)
        film.end(sample.video.num_frames)
    return path


class _Film:
    """The pictures and the sound of an overlay on their way into a file."""

    def __init__(self, file: Any, timing: Timing) -> None:
        self._file = file
        self._timing = timing
        self._stream: Any = None
        self._sound: Sound | None = None
        # Seconds by which keyframes were held until now.
        self._held_s = 0.0

    def show(self, frame: int, image_HWC: np.ndarray, is_key: bool) -> None:
        """Write the picture of the next frame."""
        if self._stream is None:
            self._open(image_HWC)
        shown_s = self._timing.start_of(frame) + self._held_s
        if self._sound is not None:
            self._sound.until(shown_s)
        for number in range(self._timing.repeats if is_key else 1):
            picture = av.VideoFrame.from_ndarray(image_HWC, format="rgb24")
            picture.pts = round((shown_s + number / float(self._timing.rate)) / TICK)
            picture.time_base = TICK
            self._file.mux(self._stream.encode(picture))
        if is_key:
            self._held_s += self._timing.hold_s

    def end(self, num_frames: int) -> None:
        """Write what is left."""
        assert self._stream is not None, "a video has a frame"
        if self._sound is not None:
            last_s = self._timing.start_of(num_frames - 1)
            self._sound.until(last_s + 1 / float(self._timing.rate))
            self._sound.close()
        self._file.mux(self._stream.encode(None))

    def _open(self, image_HWC: np.ndarray) -> None:
        timing = self._timing
        options = {"crf": "18", "preset": "veryfast"}
        stream = self._file.add_stream("libx264", rate=Fraction(timing.rate), options=options)
        stream.height, stream.width = image_HWC.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = TICK
        self._stream = stream
        if timing.sound:
            start_s = timing.times_F[0] if timing.times_F else 0.0
            self._sound = Sound(timing.sound, self._file, start_s)


def overlay_pictures(
    sample: Sample, episode: Episode, pred_rles_F: Rles, gt_rles_F: Rles | None, fps: int | Fraction
) -> Iterator[np.ndarray]:
    """Yield the pictures of the overlay, uint8 (height, width, 3) RGB with even sides.

    A keyframe is yielded HOLD_S seconds long.
    """
    keyframes = keyframes_of(episode)
    repeats = Timing(fps).repeats
    for frame, picture in _pictures(sample, episode, pred_rles_F, gt_rles_F, ()):
        for _ in range(repeats if frame in keyframes else 1):
            yield picture


def _pictures(
    sample: Sample,
    episode: Episode,
    pred_rles_F: Rles,
    gt_rles_F: Rles | None,
    objects_OF: Sequence[Rles],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each frame's number and picture."""
    video = sample.video
    keyframes = keyframes_of(episode)
    scale = _scale(sample)
    assert len(pred_rles_F) == video.num_frames, "one mask, or None, for each frame"

    if gt_rles_F is None:
        curve = _curve_of_size(pred_rles_F)
    else:
        curve = _curve_of_j(pred_rles_F, gt_rles_F, video.height, video.width)
    text = _text_panel(sample, episode, max(video.height * scale, SHORT_SIDE) - LOWER)
    lower = _curve_panel(curve, keyframes)

    for frame, image_HWC in _frames(sample):
        is_key = frame in keyframes
        tints = _tints(sample, frame, pred_rles_F, objects_OF)
        truth_HW = _mask(gt_rles_F, frame, sample) if gt_rles_F else None
        large = _masks_over(image_HWC, tints, truth_HW, scale)
        if is_key:
            large = _prompts_over(large, episode, frame, scale)
        figures = _figures(lower.copy(), curve, frame, is_key)
        yield frame, _beside(large, np.vstack([text, figures]))


def _tints(
    sample: Sample, frame: int, pred_rles_F: Rles, objects_OF: Sequence[Rles]
) -> list[tuple[np.ndarray, Colour]]:
    """Return the masks of a frame with their colours: of each object, if there are several."""
    if len(objects_OF) < 2:
        return [(_mask(pred_rles_F, frame, sample), PREDICTED)]
    tints = []
    for number, masks_F in enumerate(objects_OF):
        tints.append((_mask(masks_F, frame, sample), OBJECTS[number % len(OBJECTS)]))
    return tints


def keyframe_pictures(
    sample: Sample, episode: Episode, pred_rles_F: Rles, objects_OF: Sequence[Rles] = ()
) -> dict[int, np.ndarray]:
    """Return each keyframe with its mask, boxes and points, uint8 (height, width, 3) RGB.

    Small frames are enlarged.
    """
    pictures = {}
    scale = _scale(sample)
    for frame in sorted(keyframes_of(episode)):
        image_HWC = Clip(sample.video)[frame : frame + 1][0]
        tints = _tints(sample, frame, pred_rles_F, objects_OF)
        large = _masks_over(image_HWC, tints, None, scale)
        pictures[frame] = _prompts_over(large, episode, frame, scale)
    return pictures


def episode_picture(sample: Sample, episode: Episode, gt_rles_F: Rles) -> np.ndarray:
    """Return one frame of an episode beside its text, uint8 (height, width, 3) RGB.

    The frame is the answer's first, with boxes, points and the truth as an outline; without an
    answer it is the middle one.
    """
    video = sample.video
    frames = [frame for frame in sorted(keyframes_of(episode)) if 0 <= frame < video.num_frames]
    frame = frames[0] if frames else video.num_frames // 2
    image_HWC = Clip(video)[frame : frame + 1][0]
    scale = _scale(sample)
    large = _masks_over(image_HWC, [], _mask(gt_rles_F, frame, sample), scale)
    if frames:
        large = _prompts_over(large, episode, frame, scale)
    return _beside(large, _text_panel(sample, episode, len(large)))


def keyframes_of(episode: Episode) -> set[int]:
    """Return the frames with mask prompts; without prompts the answer's keyframe."""
    answer = episode.answer
    prompted = {prompt.frame for prompt in answer.prompts}
    if not prompted and answer.keyframe is not None:
        return {answer.keyframe}
    return prompted


class Measuring(Protocol):
    """What tells the width of a text in pixels."""

    def getlength(self, text: str) -> float: ...


def wrap(text: str, font: Measuring, width: int) -> list[str]:
    """Return lines of at most `width` pixels, broken at spaces; a wider word is broken anywhere."""
    lines = [""]
    # No font can measure a line break.
    for word in printable(text, lines=False).split(" "):
        longer = f"{lines[-1]} {word}"
        if font.getlength(longer) <= width:
            lines[-1] = longer.lstrip()
            continue
        if lines[-1]:
            lines.append("")
        for letter in clusters(word):
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


@dataclass(frozen=True)
class _Curve:
    """The lower part of the panel, frame by frame.

    Attributes:
        heights_F: heights of the bars, 0 to 1.
        words_F: one line of figures.
        remarks_F: words after the frame's number.
        outlined: True if the ground truth is outlined.
    """

    heights_F: np.ndarray
    words_F: tuple[str, ...]
    remarks_F: tuple[str, ...]
    outlined: bool


def _curve_of_j(pred_rles_F: Rles, gt_rles_F: Rles, height: int, width: int) -> _Curve:
    assert len(gt_rles_F) == len(pred_rles_F), "one mask, or None, for each frame"
    parts = []
    for start in range(0, len(gt_rles_F), CHUNK):
        pred_FHW = decode_frames(pred_rles_F[start : start + CHUNK], height, width)
        gt_FHW = decode_frames(gt_rles_F[start : start + CHUNK], height, width)
        parts.append(jaccard(pred_FHW, gt_FHW))
    j_F = np.concatenate(parts)
    words = [f"J {100 * j:.0f}    mean J {100 * j_F.mean():.1f}" for j in j_F]
    remarks = []
    for rle in gt_rles_F:
        visible = rle is not None and area(rle)
        remarks.append("" if visible else ", target not visible")
    return _Curve(j_F, tuple(words), tuple(remarks), outlined=True)


def _curve_of_size(pred_rles_F: Rles) -> _Curve:
    shares = []
    for rle in pred_rles_F:
        shares.append(area(rle) / float(np.prod(rle["size"])) if rle else 0.0)
    share_F = np.array(shares)
    words = tuple(f"mask: {100 * share:.1f} % of the frame" for share in share_F)
    remarks = tuple("" if share else ", nothing found" for share in share_F)
    return _Curve(share_F / max(share_F.max(), 1e-9), words, remarks, outlined=False)


def _scale(sample: Sample) -> int:
    """Return the whole factor by which the video's frames are enlarged."""
    short_side = min(sample.video.height, sample.video.width)
    return max(1, -(-SHORT_SIDE // short_side))


def _frames(sample: Sample) -> Iterator[tuple[int, np.ndarray]]:
    clip = Clip(sample.video)
    for start in range(0, sample.video.num_frames, CHUNK):
        yield from enumerate(clip[start : start + CHUNK], start)


def _mask(rles_F: Rles, frame: int, sample: Sample) -> np.ndarray:
    return decode_frames([rles_F[frame]], sample.video.height, sample.video.width)[0]


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    if scale == 1:
        return image
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _masks_over(
    image_HWC: np.ndarray,
    tints: Sequence[tuple[np.ndarray, Colour]],
    truth_HW: np.ndarray | None,
    scale: int,
) -> np.ndarray:
    """Return the enlarged frame with the predictions tinted and the truth outlined."""
    image_HWC = _enlarge(image_HWC, scale)
    tinted = image_HWC.copy()
    for mask_HW, colour in tints:
        large_HW = _enlarge(mask_HW, scale)
        mixed = 0.45 * image_HWC[large_HW] + 0.55 * np.array(colour)
        tinted[large_HW] = mixed.astype(np.uint8)
    if truth_HW is None:
        return tinted
    truth = _enlarge(truth_HW, scale).astype(np.uint8)
    outlines, _ = cv2.findContours(truth, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(tinted, outlines, -1, TRUE, _line_width(image_HWC))


def _prompts_over(image_HWC: np.ndarray, episode: Episode, frame: int, scale: int) -> np.ndarray:
    """Mark a keyframe in place, with boxes and points of the answer (negative: crosses)."""
    height, width = image_HWC.shape[:2]
    line = _line_width(image_HWC)
    cv2.rectangle(image_HWC, (0, 0), (width - 1, height - 1), KEY, 3 * line)
    for prompt in episode.answer.prompts:
        if prompt.frame != frame:
            continue
        if prompt.box is not None:
            x0, y0, x1, y1 = (round(scale * side) for side in prompt.box)
            cv2.rectangle(image_HWC, (x0, y0), (x1 - 1, y1 - 1), KEY, line)
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            mark = cv2.MARKER_STAR if label else cv2.MARKER_TILTED_CROSS
            place = (round(scale * x), round(scale * y))
            cv2.drawMarker(image_HWC, place, KEY, mark, 10 * line, line)
    return image_HWC


def _line_width(image_HWC: np.ndarray) -> int:
    """Return the width of a line that can be seen at this size."""
    return max(2, min(image_HWC.shape[:2]) // 250)


def _paragraphs(sample: Sample, episode: Episode) -> list[tuple[str, int, Colour]]:
    """Return the query and the trained turns, with the size and colour of their letters."""
    paragraphs: list[tuple[str, int, Colour]] = [(f"“{sample.query}”", 20, INK)]
    own_turns = [turn for turn in episode.turns if turn.trainable]
    for number, turn in enumerate(own_turns, 1):
        words = " ".join(turn.text.split())
        paragraphs.append((f"turn {number}", 13, FAINT))
        paragraphs.append((words or "(nothing)", 15, INK))
    paragraphs.append((f"episode: {episode.end.value}", 13, FAINT))
    return paragraphs


def _text_panel(sample: Sample, episode: Episode, height: int) -> np.ndarray:
    """Return the query and the trained turns, (height, PANEL, 3); an ellipsis marks a cut."""
    image = Image.new("RGB", (PANEL, height), PAPER)
    draw = ImageDraw.Draw(image)

    y = 12
    for text, size, colour in _paragraphs(sample, episode):
        letters = Lettering(size)
        right = is_right_to_left(text)
        for line in wrap(text, letters, PANEL - 2 * LEFT):
            if y + 2 * size > height:
                letters.draw(draw, (LEFT, y), "…", INK)
                return np.asarray(image)
            x = PANEL - LEFT - letters.getlength(line) if right else LEFT
            letters.draw(draw, (x, y), line, colour)
            y += round(1.4 * size)
        y += 6
    return np.asarray(image)


def _curve_panel(curve: _Curve, keyframes: set[int]) -> Image.Image:
    """Return the lower part of the panel without the figures of a frame: curve and legend."""
    image = Image.new("RGB", (PANEL, LOWER), PAPER)
    draw = ImageDraw.Draw(image)
    draw.line((LEFT, BOTTOM + 1, PANEL - LEFT, BOTTOM + 1), FAINT)
    for frame in range(len(curve.heights_F)):
        draw.rectangle(_bar(curve, frame), PREDICTED)
    # Keyframes come last, over their neighbours.
    for frame in sorted(keyframes):
        draw.rectangle(_bar(curve, frame), KEY)

    legend = [("prediction", PREDICTED), ("keyframe and box", KEY)]
    if curve.outlined:
        legend.insert(1, ("ground truth", TRUE))
    font = ImageFont.load_default(13)
    x = float(LEFT)
    for name, colour in legend:
        draw.rectangle((x, 124, x + 12, 136), colour)
        draw.text((x + 18, 121), name, INK, font)
        x += 18 + font.getlength(name) + 22
    return image


def _bar(curve: _Curve, frame: int) -> tuple[float, float, float, float]:
    """Return the box of a frame's bar: x0, top, x1, bottom."""
    step = (PANEL - 2 * LEFT) / len(curve.heights_F)
    gap = 2 if step > 4 else 0
    x0 = LEFT + frame * step
    x1 = max(x0, LEFT + (frame + 1) * step - gap)
    height = max(1.0, (BOTTOM - TOP) * float(curve.heights_F[frame]))
    return x0, BOTTOM - height, x1, BOTTOM


def _figures(image: Image.Image, curve: _Curve, frame: int, is_key: bool) -> np.ndarray:
    """Write the figures of one frame on the lower part of the panel."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(17)
    where = f"frame {frame} of 0 to {len(curve.heights_F) - 1}"
    if is_key:
        where += ", keyframe"
    draw.text((LEFT, 6), where + curve.remarks_F[frame], KEY if is_key else INK, font)
    draw.text((LEFT, 28), curve.words_F[frame], INK, font)
    x0, top, x1, bottom = _bar(curve, frame)
    draw.rectangle((x0, top, x1, bottom), INK)
    # A tick below the bar marks the frame where the bar is too low to be seen.
    draw.rectangle((x0, bottom + 3, x1, bottom + 6), INK)
    return np.asarray(image)


def _beside(left_HWC: np.ndarray, right_HWC: np.ndarray) -> np.ndarray:
    """Return two pictures in a row on dark paper, with the even sides that the codec needs."""
    height = max(len(left_HWC), len(right_HWC))
    width = left_HWC.shape[1] + right_HWC.shape[1]
    canvas = np.full((height + height % 2, width + width % 2, 3), PAPER, np.uint8)
    canvas[: len(left_HWC), : left_HWC.shape[1]] = left_HWC
    canvas[: len(right_HWC), left_HWC.shape[1] : width] = right_HWC
    return canvas
