"""Zips in the layouts of the servers, read back image by image."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.masks import encode_frames
from core.types import End, Episode, Sample, Video
from ray_jobs.record.predictions import Predictions, line_of
from ray_jobs.submission import submission

# every fifth frame is listed, as in Ref-YouTube-VOS
NAMES = ("00000", "00005", "00010")
SIZE = (9, 13)


def masks(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((len(NAMES), *SIZE)) < 0.4


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """Two videos, three expressions; an expression's second frame has no mask."""
    predictions = Predictions.open(tmp_path, {"data.format": "mevis", "expressions": 3})
    for seed, uid in enumerate(("a/0", "a/12", "b/0")):
        video = Video(uid[0], "nowhere", NAMES, *SIZE)
        rles = list(encode_frames(masks(seed)))
        sample = Sample(uid, video, "the one that runs", ())
        predictions.add(
            [line_of(sample, Episode(uid, (), End.DONE), [rles[0], None, rles[2]], None, {})]
        )
    return tmp_path


@pytest.mark.parametrize(("layout", "top"), [("mevis", ""), ("ref_youtube_vos", "Annotations/")])
def test_layouts(evaluated: Path, layout: str, top: str) -> None:
    path = submission(evaluated, layout)
    assert path == evaluated / f"{layout}.zip"
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        assert len(names) == 9
        for place in ("a/0", "a/12", "b/0"):
            for name in NAMES:
                assert f"{top}{place}/{name}.png" in names
        for seed, place in enumerate(("a/0", "a/12", "b/0")):
            for frame, name in enumerate(NAMES):
                image = Image.open(io.BytesIO(file.read(f"{top}{place}/{name}.png")))
                assert image.mode == "L"
                assert image.size == SIZE[::-1]
                truth_HW = masks(seed)[frame]
                if frame == 1:
                    truth_HW = np.zeros(SIZE, bool)
                assert np.array_equal(np.asarray(image), truth_HW * np.uint8(255))


@pytest.mark.parametrize("video", ["../../a", "/a", "C:/a", "a/../../b", "..\\a"])
def test_no_entry_leaves_the_zip(video: str, tmp_path: Path) -> None:
    predictions = Predictions.open(tmp_path, {"data.format": "mevis", "expressions": 1})
    sample = Sample(f"{video}/0", Video(video, "nowhere", NAMES, *SIZE), "it", ())
    rles = list(encode_frames(masks(0)))
    predictions.add([line_of(sample, Episode("0", (), End.DONE), rles, None, {})])
    with pytest.raises(ValueError, match="a name in the zip is .*, which leads out"):
        submission(tmp_path)
    assert not list(tmp_path.glob("*.zip*"))


def test_same_predictions_give_the_same_bytes(evaluated: Path) -> None:
    first = submission(evaluated, "mevis", evaluated / "first.zip").read_bytes()
    assert submission(evaluated).read_bytes() == first, "mevis is the format of the data"


def test_what_cannot_be_sent(evaluated: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout 'revos': .* known: ref_youtube_vos, mevis"):
        submission(evaluated, "revos")
    with pytest.raises(ValueError, match="give the folder of an evaluation"):
        submission(tmp_path / "elsewhere")
    video = Video("c", "nowhere", NAMES, *SIZE)
    failed = Episode("b/0", (), End.FAILED, error="a trace")
    Predictions.read(evaluated).add(
        [line_of(Sample("b/0", video, "", ()), failed, [None] * 3, None, {})]
    )
    with pytest.raises(
        ValueError, match="2 of 3 expressions have a prediction: start evaluate again"
    ):
        submission(evaluated)


def test_command_line(evaluated: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ray_jobs.submission", *arguments],
            capture_output=True,
            text=True,
        )

    assert "Annotations/<video>/<expression>/<frame>.png" in run("--help").stdout
    done = run(str(evaluated), "ref_youtube_vos", str(evaluated / "out.zip"))
    assert done.returncode == 0
    assert "out.zip" in done.stdout
    assert (evaluated / "out.zip").exists()
    wrong = run(str(evaluated), "refytvos")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: layout 'refytvos'")
    assert len(wrong.stderr) < 200
