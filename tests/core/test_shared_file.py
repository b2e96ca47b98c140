"""Files in memory: what is held stays, also after the death of whoever wrote it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.shared_file import SHARED_NAME, Place, SharedFile, hold, path_of, readers_note

READER = """
import sys, time
from core.shared_file import readers_note
path, word, pause = sys.argv[1:]
with readers_note(path, 100) as note:
    print("here", flush=True)
    time.sleep(float(pause))
    note += word.encode()
"""

WRITER = """
import pickle, sys
from core.shared_file import SharedFile
file = SharedFile(1000)
file.begin()
file.data[:] = 7
sys.stdout.buffer.write(pickle.dumps(file.finish()))
sys.stdout.buffer.flush()
sys.stdin.read()
"""


def written(file: SharedFile, value: int) -> Place:
    assert file.begin()
    file.data[:] = value
    return file.finish()


def named_files() -> list[str]:
    return [file.name for file in Path("/dev/shm").iterdir() if SHARED_NAME in file.name]


def test_what_is_held_is_not_written_over() -> None:
    file = SharedFile(100)
    place = written(file, 1)
    held = hold(place)
    other = hold(place)
    assert held is not None
    assert other is not None
    held.close()
    assert not file.begin(), "another reader is left"
    assert other.data().tolist() == [1] * 100
    other.close()
    assert file.begin()


def test_late_readers_find_nothing() -> None:
    file = SharedFile(100)
    old = written(file, 1)
    assert file.begin()
    assert hold(old) is None, "it is being written"
    file.data[:] = 2
    new = file.finish()
    assert hold(old) is None, "it holds other contents"
    held = hold(new)
    assert held is not None
    assert held.data().max() == 2


def test_a_number_that_means_another_file_by_now_is_noticed(tmp_path: Path) -> None:
    place = written(SharedFile(100), 1)
    assert hold(place) is None, "closed with its last user"
    reading, writing = os.pipe()
    with open(tmp_path / "other", "wb+") as other:
        for number in (reading, writing, other.fileno()):
            assert hold(replace(place, path=path_of(number))) is None
    os.close(reading)
    os.close(writing)


def test_readers_leave_each_other_a_note() -> None:
    file = SharedFile(100)
    place = written(file, 1)
    held = hold(place)
    assert held is not None
    path = held.place.path
    with readers_note(path, 100) as note:
        assert note == b""
        note += b"good"
    with pytest.raises(KeyError), readers_note(path, 100) as note:
        note[:] = b"wrong"
        raise KeyError
    with readers_note(path, 100) as note:
        assert note == b"good"
    assert held.data().tolist() == [1] * 100

    held.close()
    place = written(file, 2)
    with readers_note(place.path, 100) as note:
        assert note == b"", "it was about other contents"


def reading(path: str, word: str, pause: float) -> subprocess.Popen[bytes]:
    """Return a process that has the note for some seconds, then adds a word."""
    command = [sys.executable, "-c", READER, path, word, str(pause)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    return process


def test_one_reader_after_another_has_the_note() -> None:
    file = SharedFile(100)
    place = written(file, 1)
    with reading(place.path, "first", 1):
        # Waits for the one before.
        with reading(place.path, "killed", 60) as killed:
            killed.kill()
        with readers_note(place.path, 100) as note:
            assert note == b"first"


def test_a_reader_that_stands_still_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    file = SharedFile(100)
    place = written(file, 1)
    monkeypatch.setattr("core.shared_file.PATIENCE_S", 0.1)
    with reading(place.path, "late", 60) as still:
        with readers_note(place.path, 100) as note:
            note += b"mine"
        with readers_note(place.path, 100) as note:
            assert note == b"mine"
        still.kill()


def test_a_copy_in_another_process_holds_nothing() -> None:
    held = hold(written(SharedFile(100), 1))
    assert pickle.loads(pickle.dumps(held)) is None


def test_contents_outlive_a_killed_writer_and_leave_nothing_behind() -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    place = pickle.load(writer.stdout)
    assert place.is_here
    held = hold(place)
    assert held is not None
    writer.kill()
    writer.communicate()

    assert hold(place) is None
    assert np.array_equal(held.data(), np.full(1000, 7))
    again = hold(held.place)
    assert again is not None, "others find it by way of the process that holds it"
    assert named_files() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_of_another_user_are_one_clear_error() -> None:
    place = replace(written(SharedFile(100), 1), path="/proc/1/fd/0")
    with pytest.raises(ValueError, match="as one user"):
        hold(place)
