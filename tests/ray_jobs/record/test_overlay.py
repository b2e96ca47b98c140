"""The overlay video: it decodes, holds the keyframe, and colours are where masks and boxes are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFont

from core.masks import encode
from core.types import Answer, End, Episode, MaskPrompt, Rle, Sample, Target, Turn, Video
from ray_jobs.record.overlay import (
    BOTTOM,
    FPS,
    KEY,
    LOWER,
    PANEL,
    PREDICTED,
    TOP,
    TRUE,
    keyframe_pictures,
    overlay_pictures,
    overlay_video,
    wrap,
)


def _sample(folder: Path, height: int, width: int, frames: int = 8) -> Sample:
    """A bright square that walks to the right over noise; not visible in the last frame."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    masks_F = []
    for i in range(frames):
        image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        truth = np.zeros((height, width), bool)
        if i < frames - 1:
            truth[20:50, 10 + 5 * i : 40 + 5 * i] = True
        image[truth] = (220, 60, 60)
        Image.fromarray(image).save(folder / f"{i:05d}.png")
        masks_F.append(encode(truth) if truth.any() else None)
    names = tuple(f"{i:05d}" for i in range(frames))
    video = Video("v", str(folder), names, height, width)
    target = Target("0", tuple(masks_F))
    return Sample("v/0", video, "the red square that moves to the right", (target,))


def _episode(*, prompts: tuple[MaskPrompt, ...], said: int = 1) -> Episode:
    thought = "the red square moves to the right and the others do not, so it is the one. "
    first = _turn("<think>" + thought * said + "</think>")
    second = _turn('<answer>[{"bbox_2d":[25,20,55,50]}]</answer>')
    return Episode("v/0", (first, second), End.DONE, Answer(prompts, keyframe=3))


def _turn(text: str, trainable: bool = True) -> Turn:
    return Turn(
        prompt_ids=(),
        completion_ids=(),
        logprobs=(),
        text=text,
        media=(),
        complete=True,
        version=0,
        trainable=trainable,
    )


NOTHING: list[Rle | None] = [None] * 8
PROMPT = MaskPrompt(3, (25.0, 20.0, 55.0, 50.0), ((40.0, 35.0), (5.0, 5.0)), (1, 0))


def _decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.pix_fmt == "yuv420p"
        images = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return np.stack(images)


def _near(image_HWC: np.ndarray, colour: tuple[int, int, int], tolerance: int = 0) -> np.ndarray:
    return np.abs(image_HWC.astype(int) - colour).max(axis=-1) <= tolerance


@pytest.mark.parametrize(("height", "width"), [(112, 112), (65, 99), (470, 301)])
def test_every_frame_is_there_and_the_keyframe_is_held(
    tmp_path: Path, height: int, width: int
) -> None:
    sample = _sample(tmp_path / "frames", height, width)
    truth_F: tuple[Rle | None, ...] = tuple(sample.targets[0].masks_F)
    episode = _episode(prompts=(PROMPT,))
    path = overlay_video(tmp_path / "out" / "a.mp4", sample, episode, truth_F, truth_F)
    shown = _decoded(path)
    assert len(shown) == 8 - 1 + FPS
    assert shown.shape[1] >= 448
    assert shown.shape[2] >= 448 * 0.6 + PANEL
    assert shown.shape[1] % 2 == shown.shape[2] % 2 == 0
    held = shown[3 : 3 + FPS].astype(int)
    assert np.abs(held - held[0]).mean() < 2
    assert np.abs(held[0] - shown[2]).mean() > 2


def test_colours_are_where_masks_and_box_are(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "frames", 112, 112)
    truth_F = sample.targets[0].masks_F
    episode = _episode(prompts=(PROMPT,))
    shown = list(overlay_pictures(sample, episode, [truth_F[0]] * 8, truth_F, fps=1))
    # 112 pixels are enlarged to 448.
    scale = 4
    first = shown[0][:, :448]
    key = shown[3][:, :448]
    last = shown[7][:, :448]

    inside = first[100:180, 60:140].astype(float).mean(axis=(0, 1))
    expected = 0.45 * np.array((220, 60, 60)) + 0.55 * np.array(PREDICTED)
    assert np.abs(inside - expected).max() < 3
    assert _near(first, TRUE).any()
    assert not _near(first, KEY).any()
    rows, columns = np.nonzero(_near(first, TRUE))
    assert abs(columns.min() - 10 * scale) <= 2
    assert abs(rows.max() - 50 * scale) <= 2

    # The mark round the keyframe, and the upper edge of the box.
    assert _near(key[0], KEY).all()
    assert _near(key[20 * scale, 25 * scale : 55 * scale], KEY).mean() > 0.9
    assert not _near(last, TRUE).any()


def test_no_prediction_no_prompts_no_answer(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "frames", 112, 112)
    failed = Episode("v/0", (), End.FAILED, error="gone")
    path = overlay_video(tmp_path / "a.mp4", sample, failed, NOTHING, sample.targets[0].masks_F)
    assert len(_decoded(path)) == 8


def test_a_keyframe_without_a_box_is_marked(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "frames", 112, 112)
    shown = list(overlay_pictures(sample, _episode(prompts=()), NOTHING, NOTHING, fps=2))
    assert len(shown) == 9
    assert _near(shown[3][0, :448], KEY).all()


def _first(sample: Sample, episode: Episode) -> np.ndarray:
    return next(overlay_pictures(sample, episode, NOTHING, NOTHING, fps=1))


def test_long_reasoning_does_not_grow_the_picture(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "frames", 112, 112)
    few = _first(sample, _episode(prompts=(PROMPT,), said=1))
    many = _first(sample, _episode(prompts=(PROMPT,), said=60))
    assert few.shape == many.shape
    assert not np.array_equal(few, many)


def test_auxiliary_questions_do_not_crowd_out_the_answer(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "frames", 112, 112)
    episode = _episode(prompts=(PROMPT,))
    auxiliary = _turn("a long way round", trainable=False)
    with_auxiliary = replace(episode, turns=(*[auxiliary] * 40, *episode.turns))
    with_own = replace(episode, turns=(_turn("a long way round"), *episode.turns))
    plain = _first(sample, episode)
    assert np.array_equal(plain, _first(sample, with_auxiliary))
    assert not np.array_equal(plain, _first(sample, with_own))


def test_wrapped_text_fits_and_loses_nothing() -> None:
    font = ImageFont.load_default(15)
    text = "a sentence of several words and " + "one" * 60 + " more"
    lines = wrap(text, font, 200)
    assert max(font.getlength(line) for line in lines) <= 200
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_the_path_must_be_mp4(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "frames", 64, 64)
    with pytest.raises(ValueError, match="an overlay is an .mp4 file"):
        overlay_video(tmp_path / "a.avi", sample, _episode(prompts=()), NOTHING, NOTHING)


def test_without_ground_truth_the_curve_is_of_the_size(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "frames", 112, 112)
    masks_F = tuple(sample.targets[0].masks_F)
    shown = list(overlay_pictures(sample, _episode(prompts=(PROMPT,)), masks_F, None, fps=1))
    assert len(shown) == 8
    assert not any(_near(picture, TRUE).any() for picture in shown)
    # The bars are full where the frame has a mask.
    top = len(shown[0]) - LOWER
    bars = shown[0][top + TOP : top + BOTTOM, 448:]
    assert _near(bars, PREDICTED).sum() > 4 * (BOTTOM - TOP) * 40

    empty = list(overlay_pictures(sample, _episode(prompts=()), NOTHING, None, fps=1))
    assert len(empty) == 8


def test_keyframe_pictures_show_mask_box_and_points(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "frames", 112, 112)
    episode = _episode(prompts=(PROMPT,))
    pictures = keyframe_pictures(sample, episode, sample.targets[0].masks_F)
    assert list(pictures) == [3]
    image = pictures[3]
    assert image.shape == (448, 448, 3)
    # The upper edge of the box, and the point off the object.
    assert _near(image[80, 100:220], KEY).mean() > 0.9
    assert _near(image[18:23, 10:30], KEY).any()
    assert keyframe_pictures(sample, Episode("v/0", (), End.FAILED), NOTHING) == {}
