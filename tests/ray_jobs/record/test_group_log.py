"""The group log: whole groups bit for bit, and what is said of a broken or a foreign line."""

from __future__ import annotations

import base64
import json
import math
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.episode_json import SIZE, episodes_json, pack_episodes
from core.types import Answer, End, Episode, MaskPrompt, Media, SegPrompt, Turn, View
from ray_jobs.record.group_log import GroupLog, LoggedGroup, from_line, to_line

# Text of any kind: half of a surrogate pair is no valid UTF-8, but may be decoded from tokens.
TEXTS = st.text(st.characters(), max_size=8) | st.just("\ud83d")
IDS = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)
# Equal to itself only, unlike nan; nan has a test of its own.
FLOATS = st.floats(allow_nan=False)
VALUES = st.none() | st.booleans() | st.integers() | FLOATS | TEXTS
FACTS = st.dictionaries(TEXTS, VALUES | st.lists(VALUES, max_size=3), max_size=3)

VIEWS = st.builds(View, st.integers(0, 999), st.integers(1, 999), st.integers(1, 999))
TURNS = st.builds(
    Turn,
    prompt_ids=IDS,
    completion_ids=IDS,
    logprobs=st.lists(FLOATS, max_size=4).map(tuple),
    text=TEXTS,
    media=st.lists(st.builds(Media, TEXTS, VIEWS), max_size=2).map(tuple),
    complete=st.booleans(),
    version=st.integers(0, 9),
    trainable=st.booleans(),
)
POINTS = st.lists(st.tuples(FLOATS, FLOATS), max_size=2).map(tuple)
PROMPTS = st.builds(
    MaskPrompt,
    frame=st.integers(0, 99),
    box=st.none() | st.tuples(FLOATS, FLOATS, FLOATS, FLOATS),
    points=POINTS,
    labels=IDS,
)
SEGS = st.builds(SegPrompt, st.integers(0, 3), st.integers(0, 99), st.integers(0, 99), TEXTS)
ANSWERS = st.builds(
    Answer,
    prompts=st.lists(PROMPTS, max_size=2).map(tuple),
    facts=FACTS,
    segs=st.lists(SEGS, max_size=2).map(tuple),
    keyframe=st.none() | st.integers(0, 99),
    reasoning_tokens=st.none() | st.integers(0, 99),
)
EPISODES = st.builds(
    Episode,
    sample_uid=TEXTS,
    turns=st.lists(TURNS, max_size=2).map(tuple),
    end=st.sampled_from(End),
    answer=ANSWERS,
    error=TEXTS,
    too_long=st.booleans(),
    seconds=FLOATS,
)

TURN = Turn((1, 2), (3,), (-0.1,), "a", (Media("d", View(7, 28, 28)),), True, version=4)
EPISODE = Episode("v/1", (TURN,), End.DONE, Answer(facts={"box": [1, 2.5]}))
UIDS = ["v/1", "v/2", "v/1"]


@given(st.lists(EPISODES, max_size=2).map(tuple))
def test_episodes_come_back_bit_for_bit(episodes: tuple[Episode, ...]) -> None:
    group = LoggedGroup("draw", 3, "v/1", episodes)
    line = b"".join(to_line(group))
    assert line.count(b"\n") == 1
    again = from_line(line)
    assert again == group
    # Equality does not tell 0.0 from -0.0, nor 1 from 1.0 and True.
    assert repr(again) == repr(group)


def test_nan_and_infinity_come_back() -> None:
    turn = replace(TURN, logprobs=(math.nan, -math.inf))
    [episode] = from_line(
        b"".join(to_line(LoggedGroup("", 0, "", (replace(EPISODE, turns=(turn,)),))))
    ).episodes
    assert math.isnan(episode.turns[0].logprobs[0])
    assert episode.turns[0].logprobs[1] == -math.inf


# As it was written before episodes were compressed.
LINE = (
    b'{"draw":"d","index":3,"sample_uid":"v/1","episodes":[{"sample_uid":"v/1","turns":[{'
    b'"prompt_ids":[1,2],"completion_ids":[3],"logprobs":[-0.1],"text":"a","media":[{"digest":"d",'
    b'"view":{"frame":7,"height":28,"width":28}}],"complete":true,"version":4,"trainable":true}],'
    b'"end":"done","answer":{"prompts":[],"facts":{"box":[1,2.5]},"segs":[],"keyframe":null,'
    b'"reasoning_tokens":null},"error":"","too_long":false,"seconds":0.0}]}\n'
)


def test_a_line_from_before_compression_is_read() -> None:
    assert from_line(LINE) == LoggedGroup("d", 3, "v/1", (EPISODE,))


@pytest.mark.parametrize("is_encoded", [False, True])
def test_a_line_is_one_object_of_json(is_encoded: bool) -> None:
    group = LoggedGroup("d", 3, "v/1", (EPISODE,))
    encoded = pack_episodes(group.episodes) if is_encoded else None
    assert json.loads(b"".join(to_line(group, encoded))) == {
        "draw": "d",
        "index": 3,
        "sample_uid": "v/1",
        "episodes": pack_episodes(group.episodes).decode(),
    }


def test_a_group_of_real_length_takes_a_third_at_most() -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(4):
        turn = replace(
            TURN,
            prompt_ids=(151_655,) * 4000,
            completion_ids=tuple(rng.integers(0, 150_000, 500).tolist()),
            logprobs=tuple((-rng.random(500)).tolist()),
        )
        episodes.append(replace(EPISODE, turns=(turn,)))
    assert 3 * len(pack_episodes(episodes)) < len(episodes_json(episodes))
    line = b"".join(to_line(LoggedGroup("d", 3, "v/1", tuple(episodes))))
    assert from_line(line).episodes == tuple(episodes)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"?",
        b"AAAA",
        base64.b64encode(SIZE.pack(1 << 60) + b"\x28\xb5\x2f\xfd"),
        base64.b64encode(SIZE.pack(90) + b"no zstd"),
        pack_episodes((EPISODE,))[:-8],
    ],
)
def test_broken_episodes_are_a_plain_error(packed: bytes) -> None:
    line = b"".join(to_line(LoggedGroup("d", 3, "v/1", ()), packed))
    with pytest.raises(ValueError, match=r"."):
        from_line(line)


def test_episodes_are_written_as_they_were_encoded(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    # The object store gives memory that may only be read.
    encoded = np.frombuffer(pack_episodes((EPISODE, EPISODE)), dtype=np.uint8).data
    log.add(5, UIDS, 2, (EPISODE, EPISODE), encoded)
    assert log.read(5, UIDS, {4}) == {2: (EPISODE, EPISODE)}


def test_steps_that_come_in_turns_keep_their_prompts(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    for index in (0, 1):
        for step in (5, 6):
            log.add(step, [*UIDS, str(step)], index, (EPISODE,))
    for step in (5, 6):
        assert list(log.read(step, [*UIDS, str(step)], {4})) == [0, 1]
    assert log.read(5, [*UIDS, "6"], {4}) == {}


class Said(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


def log_of(folder: Path, say: Any = print, run: str = "run") -> GroupLog:
    return GroupLog.open(folder / "groups", run, say)


def test_groups_are_found_by_step_and_index(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.add(5, UIDS, 2, (EPISODE,))
    log.add(5, UIDS, 0, (EPISODE, EPISODE))
    log.add(6, UIDS, 1, (EPISODE,))
    again = log_of(tmp_path)
    assert again.read(5, UIDS, {4}) == {0: (EPISODE, EPISODE), 2: (EPISODE,)}
    assert again.read(7, UIDS, {4}) == {}


@pytest.mark.parametrize(
    ("run", "uids", "versions"),
    [("other", UIDS, {4}), ("run", ["v/1", "v/2", "v/3"], {4}), ("run", UIDS, {3, 5})],
)
def test_groups_of_another_run_are_left_out(
    tmp_path: Path, run: str, uids: list[str], versions: set[int]
) -> None:
    log_of(tmp_path).add(5, UIDS, 0, (EPISODE,))
    said = Said()
    log = log_of(tmp_path, said, run)
    assert log.read(5, uids, versions) == {}
    [line] = said
    assert "step_5.jsonl: 1 groups are left out, of another run" in line
    # They do not stand in the way of the right ones.
    log.add(5, uids, 0, (replace(EPISODE, turns=()),))
    assert list(log.read(5, uids, versions)) == [0]


def test_turns_of_a_frozen_helper_have_no_version(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    helper = replace(TURN, trainable=False, version=0)
    log.add(5, UIDS, 0, (replace(EPISODE, turns=(helper, TURN)),))
    assert list(log.read(5, UIDS, {4})) == [0]


def test_a_cut_line_is_dropped_silently(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    for index in (0, 1):
        log.add(5, UIDS, index, (EPISODE,))
    file = tmp_path / "groups" / "step_5.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    said = Said()
    log = log_of(tmp_path, said)
    assert list(log.read(5, UIDS, {4})) == [0]
    log.add(5, UIDS, 1, (EPISODE,))
    assert list(log.read(5, UIDS, {4})) == [0, 1]
    assert not said


@pytest.mark.parametrize("broken", ["\0\0", "{}", "[1", '{"draw": 1}', "[" * 100_000])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, broken: str) -> None:
    log = log_of(tmp_path)
    for index in (0, 1, 2):
        log.add(5, UIDS, index, (EPISODE,))
    file = tmp_path / "groups" / "step_5.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = broken
    file.write_text("\n".join(lines) + "\n")
    said = Said()
    log = log_of(tmp_path, said)
    for _ in range(2):
        assert list(log.read(5, UIDS, {4})) == [0, 2]
    [line] = said
    assert line.startswith(f"{file}, line 2 is broken, its group left out: ")


def test_steps_are_forgotten(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    for step in (3, 4, 10):
        log.add(step, UIDS, 0, (EPISODE,))
    log.forget(4)
    assert [file.name for file in (tmp_path / "groups").iterdir()] == ["step_10.jsonl"]
    log.drop(10)
    log.drop(10)
    assert log.read(10, UIDS, {4}) == {}


def test_a_full_disk_costs_only_the_log(tmp_path: Path) -> None:
    said = Said()
    log = log_of(tmp_path, said)
    log.add(5, UIDS, 0, (EPISODE,))
    file = tmp_path / "groups" / "step_5.jsonl"
    before = file.read_bytes()
    # A limit on the size of files stops a write as a full disk does, in the middle of a line.
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, unlimited[1]))
    try:
        log.add(5, UIDS, 1, (EPISODE,))
        log.add(5, UIDS, 2, (EPISODE,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert file.read_bytes() == before
    [line] = said
    assert line.startswith("a group is not in the log")
    assert f"{file} could not be written (File too large)" in line
    log.add(5, UIDS, 1, (EPISODE,))
    assert list(log.read(5, UIDS, {4})) == [0, 1]
