"""The overlay video: it decodes, holds the keyframe, and colours are where masks and boxes are."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFont

from core.masks import decode, encode
from core.types import Answer, End, Episode, MaskPrompt, Rle, Sample, Target, Turn, Video
from data.frames.probing import probe_with_rate
from ray_jobs.record.overlay import (
    BOTTOM,
    FPS,
    KEY,
    LOWER,
    OBJECTS,
    PANEL,
    PREDICTED,
    TOP,
    TRUE,
    keyframe_pictures,
    overlay_pictures,
    overlay_video,
    wrap,
)
from ray_jobs.record.segmented import Style, timing_of


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


def test_several_objects_have_colours_of_their_own(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "frames", 112, 112)
    other = np.zeros((112, 112), bool)
    other[80:100, 60:100] = True
    objects_OF = [tuple(sample.targets[0].masks_F), (encode(other),) * 8]
    union_F = [None] * 8
    episode = _episode(prompts=(PROMPT,))
    pictures = keyframe_pictures(sample, episode, union_F, objects_OF)
    for masks_F, colour in zip(objects_OF, OBJECTS, strict=False):
        rle = masks_F[3]
        assert rle is not None
        inside_HW = decode(rle).repeat(4, axis=0).repeat(4, axis=1)
        # The middle pixel is far from all lines.
        y, x = np.argwhere(inside_HW).mean(axis=0).astype(int)
        own = pictures[3][y - 12 : y - 8, x - 30 : x - 20].reshape(-1, 3).mean(0)
        assert abs(own - 0.55 * np.array(colour)).max() < 0.45 * 230


def _filmed(path: Path, times: list[float], with_sound: bool = False) -> Path:
    """A video file with frames at these seconds, and a tone of a second or so."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        tone = file.add_stream("aac", rate=44100, layout="stereo") if with_sound else None
        for number, seconds in enumerate(times):
            image = np.full((64, 64, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round(1000 * seconds)
            frame.time_base = Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if tone is not None:
            for start in range(0, 44100, 1024):
                wave = np.sin(np.arange(start, start + 1024) / 10).astype(np.float32)
                heard = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp")
                heard.sample_rate = 44100
                heard.pts = start
                file.mux(tone.encode(heard))
            file.mux(tone.encode())
    return path


def _times(path: Path) -> list[float]:
    with av.open(str(path)) as file:
        return [float(frame.time) for frame in file.decode(video=0)]


def _overlay_of(clip: Path, out: Path, style: Style) -> Path:
    video, rate = probe_with_rate(clip)
    sample = Sample("v/0", video, "the tone", ())
    prompt = MaskPrompt(2, (5.0, 5.0, 20.0, 20.0))
    masks_F = (None,) * video.num_frames
    timing = timing_of(video, replace(style, rate=rate))
    return overlay_video(out, sample, _episode(prompts=(prompt,)), masks_F, None, timing)


def test_a_varying_rate_is_kept(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.9, 1.0, 2.0]
    clip = _filmed(tmp_path / "a.mp4", times)
    found = _times(_overlay_of(clip, tmp_path / "out.mp4", Style()))
    # The keyframe is held for a second more.
    expected = [0.0, 0.1, 0.2, 1.9, 2.0, 3.0]
    assert found == pytest.approx(expected, abs=0.002)
    steady = _times(_overlay_of(clip, tmp_path / "steady.mp4", Style(fps=Fraction(5))))
    assert steady == pytest.approx([n / 5 for n in range(6 + 4)], abs=0.002)


@pytest.mark.parametrize("times", [[n / 10 for n in range(10)], [0.0, 0.1, 0.2, 0.6, 0.7, 0.9]])
def test_sound_is_kept_beside_its_pictures(times: list[float], tmp_path: Path) -> None:
    clip = _filmed(tmp_path / "a.mp4", times, with_sound=True)
    out = _overlay_of(clip, tmp_path / "out.mp4", Style(audio=True))
    assert _times(out) == pytest.approx(times, abs=0.002)
    with av.open(str(out)) as file:
        heard = list(file.decode(audio=0))
    assert sum(frame.samples for frame in heard) == pytest.approx(44100, abs=4096)
    waves = np.concatenate([frame.to_ndarray()[0] for frame in heard])
    assert np.sqrt((waves[4096:40000] ** 2).mean()) == pytest.approx(0.5**0.5, abs=0.1)
    # Without sound in it there is none to keep.
    mute = _filmed(tmp_path / "mute.mp4", times)
    with av.open(str(_overlay_of(mute, tmp_path / "no.mp4", Style(audio=True)))) as file:
        assert not file.streams.audio


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
