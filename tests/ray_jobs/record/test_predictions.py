"""Predictions on disk survive kills, and are never mixed with those of other settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.files import jsonable
from core.masks import encode
from core.types import Answer, End, Episode, MaskPrompt, Reward, Sample, Turn, Video
from ray_jobs.record.predictions import (
    FILE,
    Predictions,
    content_of,
    digest_of,
    episode_of,
    expression_of,
    line_of,
)

VIDEO = Video("folder/v", "nowhere", ("00000", "00001"), 4, 6)
PROMPT = MaskPrompt(1, (0.0, 1.0, 3.0, 4.0), ((1.5, 2.0),), (1,))
IDENTITY = {"seed": 0, "contents of policy.path": "aa"}


def line(uid: str, end: End = End.DONE, reward: float = 1.0) -> dict[str, object]:
    auxiliary = Turn((1,), (2,), (-0.1,), "50%", (), True, 3, trainable=False)
    turn = Turn((1,), (2,), (-0.1,), "it is <b>there</b>", (), True, 3)
    answer = Answer((PROMPT, MaskPrompt(0, None)), {"why": "läuft"}, keyframe=1)
    episode = Episode(uid, (auxiliary, turn), end, answer)
    sample = Sample(uid, VIDEO, "das große", (), "motion")
    masks_F = [None, encode(np.eye(4, 6))]
    return line_of(sample, episode, masks_F, Reward(reward, {"x": reward}), {"J": 0.5})


def test_lines_keep_what_a_person_looks_at(tmp_path: Path) -> None:
    predictions = Predictions.open(tmp_path, IDENTITY)
    predictions.add([line("folder/v/7")])
    kept = Predictions.open(tmp_path, IDENTITY).get("folder/v/7")
    assert kept is not None
    assert kept == jsonable(line("folder/v/7"))
    assert kept["video"] == "folder/v"
    assert kept["expression"] == "7"
    assert kept["query"] == "das große"
    episode = episode_of(kept)
    assert episode.answer.prompts[0] == PROMPT
    assert kept["answer"] == {"frame": 1, "why": "läuft"}
    assert episode.answer.keyframe == 1
    assert episode.answer.facts == {"why": "läuft"}
    assert episode.turns[1].text == "it is <b>there</b>"
    assert [turn.trainable for turn in episode.turns] == [False, True]
    assert expression_of(Sample("folder/v/7", VIDEO, "", ())) == "7"


def test_a_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    predictions = Predictions.open(tmp_path, IDENTITY)
    predictions.add([line("v/0"), line("v/1")])
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-20])
    again = Predictions.open(tmp_path, IDENTITY)
    assert again.finished == {"v/0"}
    assert again.get("v/1") is None
    again.add([line("v/1", reward=2.0)])
    assert [kept["uid"] for kept in again.lines(["v/1", "v/9", "v/0"])] == ["v/1", "v/0"]


def test_newest_line_counts_and_failed_ones_are_not_finished(tmp_path: Path) -> None:
    predictions = Predictions.open(tmp_path, IDENTITY)
    predictions.add([line("v/0", End.FAILED), line("v/1")])
    assert predictions.finished == {"v/1"}
    predictions.add([line("v/0", reward=5.0)])
    for source in (predictions, Predictions.open(tmp_path, IDENTITY)):
        kept = source.get("v/0")
        assert source.finished == {"v/0", "v/1"}
        assert kept is not None
        assert kept["reward"] == 5.0


def test_a_dialogue_that_is_too_long_is_not_played_again(tmp_path: Path) -> None:
    predictions = Predictions.open(tmp_path, IDENTITY)
    predictions.add([line("v/0", End.FAILED) | {"too_long": True}, line("v/1", End.FAILED)])
    assert predictions.finished == {"v/0"}


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    Predictions.open(tmp_path, IDENTITY)
    # Without predictions another identity simply replaces the first.
    Predictions.open(tmp_path, IDENTITY | {"seed": 1}).add([line("v/0")])
    message = r"other settings \(seed=1 there, 0 now\): .*evaluate.resume=never"
    with pytest.raises(ValueError, match=message):
        Predictions.open(tmp_path, IDENTITY)
    (tmp_path / FILE).write_bytes(b'{"uid": "v/0"}\n')
    with pytest.raises(ValueError, match="line at byte 0 is no prediction"):
        Predictions.open(tmp_path, IDENTITY | {"seed": 1})


def test_contents_of_weights(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(range(256)) * 80_000)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")
    with (tmp_path / "two" / "model.safetensors").open("r+b") as file:
        # The end is always read.
        file.seek(-5, 2)
        file.write(b"changed")
    assert content_of(tmp_path / "one") != content_of(tmp_path / "two")
    before = content_of(tmp_path / "one")
    (tmp_path / "one" / "config.json").write_text("{}")
    assert content_of(tmp_path / "one") != before
    file_alone = tmp_path / "one" / "config.json"
    assert content_of(file_alone) == content_of(file_alone)
    assert digest_of(["ab", "c"]) != digest_of(["a", "bc"])
