"""What `ray_jobs.segment` says of a video, and the files of its results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.schema import Config
from core.masks import encode
from core.types import Answer, End, Episode, MaskPrompt, Media, Sample, Turn, Video, View
from ray_jobs.record import segmented
from ray_jobs.segment import settings

SAMPLE = Sample("v/0", Video("v", "v.mp4", ("00000", "00001", "00002"), 4, 6), "the dog", ())
TURN = Turn(
    (),
    (),
    (),
    "<think>so</think>",
    (Media("d", View(1, 28, 28)), Media("e", View(2, 28, 28))),
    True,
    0,
)


def test_what_is_said_of_an_episode() -> None:
    rle = encode(np.ones((4, 6), bool))
    found = Episode(
        "v/0", (TURN,), End.DONE, Answer((MaskPrompt(1, (0.0, 0.0, 3.0, 3.0)),), {"frame": 1})
    )
    assert (
        segmented.verdict(found, (None, rle, rle)) == "keyframe 1; masks on 2 of 3 frames (1 to 2)"
    )
    assert "found nothing" in segmented.verdict(found, (None, None, None))
    none = Episode("v/0", (TURN,), End.UNREADABLE)
    assert "no box or point (unreadable)" in segmented.verdict(none, (None, None, None))
    assert segmented.dialogue(SAMPLE, none).splitlines()[2:4] == [
        "turn 1, shown frames 1, 2:",
        "<think>so</think>",
    ]
    held = segmented.answer(settings([]), SAMPLE, found, (None, rle, None))
    assert json.loads(json.dumps(held))["prompts"][0]["frame"] == 1
    assert held["spans_with_mask"] == [(1, 2)]
    assert segmented.spans([True, True, False, True]) == [(0, 2), (3, 4)]
    assert segmented.spans([False]) == []


def test_a_folder_holds_the_results_of_one_run(tmp_path: Path) -> None:
    written = ["keyframe.png", "keyframe_3.png", "masks/00009.png", "overlay.mp4", "answer.json"]
    for name in [*written, "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of the run before")
    segmented.remove_results(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["notes.txt"]


@dataclass
class Asked:
    """What a person asks for: a clip of three images and a policy of one file."""

    folder: Path
    cfg: Config
    sample: Sample
    style: segmented.Style = field(default_factory=segmented.Style)

    @classmethod
    def make(cls, home: Path) -> Asked:
        (home / "clip").mkdir()
        (home / "policy").mkdir()
        (home / "policy/weights").write_bytes(b"1")
        for name in SAMPLE.video.frame_names:
            Image.new("RGB", (60, 40)).save(home / f"clip/{name}.png")
        video = replace(SAMPLE.video, path=str(home / "clip"), height=40, width=60)
        cfg = settings([])
        cfg.policy.path = str(home / "policy")
        return cls(home / "out", cfg, replace(SAMPLE, video=video))

    def write(self) -> None:
        episode = Episode("v/0", (TURN,), End.DONE, Answer((MaskPrompt(1, (0.0, 0.0, 3.0, 3.0)),)))
        rle = encode(np.ones((40, 60), bool))
        masks_F = (None, rle, rle)
        maker = segmented.Maker.of(self.cfg)
        segmented.write_results(self.folder, maker, self.sample, episode, masks_F, self.style)

    @property
    def is_there(self) -> bool:
        maker = segmented.Maker.of(self.cfg)
        return segmented.is_answered(self.folder, maker, self.sample, self.style)


def other_sentence(asked: Asked) -> None:
    asked.sample = replace(asked.sample, query="the cat")


def other_preset(asked: Asked) -> None:
    policy = asked.cfg.policy.path
    asked.cfg = settings(["videoseg_r1_tiny"])
    asked.cfg.policy.path = policy


def other_option(asked: Asked) -> None:
    asked.cfg.system.options = asked.cfg.system.options | {"num_frames": 5}


def other_seed(asked: Asked) -> None:
    asked.cfg.seed += 1


def trained_further(asked: Asked) -> None:
    Path(asked.cfg.policy.path, "weights").write_bytes(b"2")


def other_segmenter(asked: Asked) -> None:
    asked.cfg.segmenter.kind = "grabcut"


def other_picture(asked: Asked) -> None:
    Image.new("RGB", (60, 40), "red").save(Path(asked.sample.video.path, "00001.png"))


def pngs_too(asked: Asked) -> None:
    asked.style = replace(asked.style, png=True)


def sound_too(asked: Asked) -> None:
    asked.style = replace(asked.style, audio=True)


def other_rate(asked: Asked) -> None:
    asked.style = replace(asked.style, fps=Fraction(30000, 1001))


@pytest.mark.parametrize(
    "change",
    [
        other_sentence,
        other_preset,
        other_option,
        other_seed,
        trained_further,
        other_segmenter,
        other_picture,
        pngs_too,
        sound_too,
        other_rate,
    ],
)
def test_a_result_holds_until_something_that_decides_on_it_changes(
    tmp_path: Path, change: Callable[[Asked], None]
) -> None:
    asked = Asked.make(tmp_path)
    assert not asked.is_there
    asked.write()
    assert asked.is_there
    change(asked)
    assert not asked.is_there
    asked.write()
    assert asked.is_there


def test_what_decides_on_nothing_makes_no_result_again(tmp_path: Path) -> None:
    asked = Asked.make(tmp_path)
    asked.style = segmented.Style(png=True)
    asked.write()
    asked.style = segmented.Style()
    asked.cfg.segmenter.workers += 1
    asked.cfg.learner.lr *= 2
    assert asked.is_there
    # As a kill leaves it, and as an older release has written it.
    answer = asked.folder / "answer.json"
    whole = answer.read_text()
    answer.write_text(whole[:40])
    assert not asked.is_there
    assert segmented.video_in(asked.folder) == ""
    held = json.loads(whole)
    del held["made_with"]
    answer.write_text(json.dumps(held))
    assert not asked.is_there
    assert segmented.video_in(asked.folder) == asked.sample.video.path
