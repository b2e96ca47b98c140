"""The store of decoded frames: bounded, shared, and emptied by the last process."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from cluster.environment import store_env
from core.shared_file import FRAME_STORE
from data.frames import frame_store
from data.frames.frame_store import SHARE, FrameStore

FRAME = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)


def add(
    store: FrameStore,
    name: str,
    frame_HWC: np.ndarray = FRAME,
    age_s: int = 0,
) -> np.ndarray:
    with store.scratch() as scratch:
        np.save(scratch / "x.npy", frame_HWC)
        frame = store.put(name, scratch / "x.npy")
    if age_s:
        time = 1e9 - age_s
        os.utime(store.folder / f"{name}.npy", (time, time))
    return frame


def test_what_was_put_is_there_and_cannot_be_written(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, 1 << 20)
    other = FrameStore(tmp_path, 1 << 20)
    assert store.get("a") is None
    assert not store.has("a")
    add(store, "a")
    for one in (store, other):
        frame = one.get("a")
        assert frame is not None
        assert np.array_equal(frame, FRAME)
        assert one.has("a")
        with pytest.raises(ValueError, match="read-only"):
            frame[:] = 0
    assert store.added == 1
    assert other.added == 0
    assert not list(tmp_path.glob("scratch-*"))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\0" * 300, b"x" * 90])
def test_an_emptied_or_spoilt_file_is_no_frame(content: bytes, tmp_path: Path) -> None:
    store = FrameStore(tmp_path, 1 << 20)
    add(store, "a")
    (tmp_path / "a.npy").write_bytes(content)
    assert store.get("a") is None
    assert np.array_equal(add(store, "a"), FRAME)


def test_a_cut_file_is_no_frame(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, 1 << 20)
    add(store, "a")
    os.truncate(tmp_path / "a.npy", 150)
    assert store.get("a") is None


def test_the_least_recently_read_go_first_and_a_mapped_one_stays_readable(tmp_path: Path) -> None:
    header = 128
    size = FRAME.nbytes + header
    store = FrameStore(tmp_path, 3 * size)
    for number, name in enumerate("abcd"):
        mapped = add(store, name, FRAME + number, age_s=100 - number)
    store.get("a")
    store.tidy()
    assert [store.has(name) for name in "abcd"] == [True, False, True, True]
    for name in "xyz":
        add(store, name)
    store.tidy()
    assert not store.has("d")
    assert np.array_equal(mapped, FRAME + 3)


def test_it_is_looked_through_only_when_much_was_added(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, SHARE * 4 * FRAME.nbytes)
    store.tidy()
    for number in range(200):
        add(store, str(number))
        store.tidy()
        size = sum(file.stat().st_size for file in tmp_path.glob("*.npy"))
        assert size <= store.capacity * (1 + 1 / SHARE) * 2.5
    assert store.has("199")
    assert not store.has("0")


def _use(folder: Path, here: Event, go: Event) -> None:
    store = FrameStore(folder, 1 << 20)
    add(store, "b")
    here.set()
    go.wait()
    store.close()


def test_the_last_process_that_leaves_empties_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here = context.Event()
    go = context.Event()
    other = context.Process(target=_use, args=(tmp_path, here, go))
    other.start()
    assert here.wait(60)
    store = FrameStore(tmp_path, 1 << 20)
    add(store, "a")
    store.close()
    assert sorted(file.stem for file in tmp_path.glob("*.npy")) == ["a", "b"]
    go.set()
    other.join()
    assert other.exitcode == 0
    assert not list(tmp_path.glob("*.npy"))


def test_nobody_waits_for_ever_for_a_process_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FrameStore(tmp_path, 1 << 20)
    other = FrameStore(tmp_path, 1 << 20)
    monkeypatch.setattr(frame_store, "PATIENCE_S", 0.1)
    with store.lock("video"):
        with other.lock("video"):
            add(other, "a")
        assert store.has("a")


def test_one_waits_for_another_that_decodes(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, 1 << 20)
    found: list[bool] = []

    def wait() -> None:
        with FrameStore(tmp_path, 1 << 20).lock("video"):
            found.append(store.has("a"))

    with store.lock("video"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        add(store, "a")
    thread.join()
    assert found == [True]


def test_the_store_is_as_large_as_any_of_its_processes_asks(tmp_path: Path) -> None:
    small = FrameStore(tmp_path, 4 * FRAME.nbytes)
    large = FrameStore(tmp_path, 100 * FRAME.nbytes)
    for number in range(20):
        add(small, str(number))
        small.tidy()
    assert sum(small.has(str(number)) for number in range(20)) == 20
    large.close()
    small.close()
    assert not list(tmp_path.glob("capacity-*"))


def test_a_job_asks_for_the_frames_of_its_steps() -> None:
    asked = store_env(prompts=128)
    assert 8e9 < int(asked[FRAME_STORE]) < 16e9
