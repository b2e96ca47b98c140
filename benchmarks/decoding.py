"""Frames decoded once for a node against once for each process, in one run: `python benchmarks/decoding.py`.

Processes read the same frames of the same videos at the same time, as the actors of a node do: of each video 16 frames
spread over it (what a dialogue shows), then all of them from end to end (what a tracker reads). "each" gives every
process a store of its own, "node" one to all. Wall seconds are those of the slowest process; "cpu" (seconds, of readers
and decoders) and "decoded" (frames) are sums over all processes. Also one process alone: PyAV against decord, seeking
and from end to end. Ratios are within one run, so a slow or busy machine moves both sides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from data.frames.decoders import decode
from tiny.world.clip import write_clip

READER = """
import json, os, pathlib, sys, time
from data.frames import frame_store
from data.frames.probing import probe
from data.frames.reading import Clip, read_frames
frame_store.SHARED_MEMORY = pathlib.Path("/none")  # TMPDIR says where
videos = [probe(path) for path in sys.argv[1:]]
store = frame_store.node_store()
print("ready", flush=True)
sys.stdin.readline()
began, used = time.monotonic(), sum(os.times()[:4])
for video in videos:
    read_frames(video, [int((i + 0.5) * video.num_frames / 16) for i in range(16)])
shown = time.monotonic() - began
for video in videos:
    clip = Clip(video)
    for start in range(0, video.num_frames, 8):
        clip[start : start + 8]
told = {"shown": shown, "all": time.monotonic() - began - shown, "cpu": sum(os.times()[:4]) - used}
print(json.dumps(told | {"decoded": store.added}), flush=True)
sys.stdin.readline()  # stay: the last to leave empties the store
"""


def read_together(
    videos: Sequence[str], processes: int, place: Path, shared: bool
) -> dict[str, float]:
    """Seconds of the slowest of the processes, and frames decoded by all."""
    readers = []
    for number in range(processes):
        folder = place / ("node" if shared else f"each-{number}")
        folder.mkdir(exist_ok=True)
        env = os.environ | {"TMPDIR": str(folder)}
        command = [sys.executable, "-c", READER, *videos]
        readers.append(
            subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    assert all(_said(reader) == "ready" for reader in readers)
    for reader in readers:
        _tell(reader)
    told = [json.loads(_said(reader)) for reader in readers]
    for reader in readers:
        _tell(reader)
    assert not any(reader.wait() for reader in readers)
    slowest = {name: max(t[name] for t in told) for name in ("shown", "all")}
    return slowest | {name: sum(t[name] for t in told) for name in ("cpu", "decoded")}


def _said(reader: subprocess.Popen[str]) -> str:
    assert reader.stdout is not None
    return reader.stdout.readline().strip()


def _tell(reader: subprocess.Popen[str]) -> None:
    assert reader.stdin is not None
    reader.stdin.write("go\n")
    reader.stdin.flush()


def alone(video: str, decoder: str, wanted: Sequence[int], place: Path) -> float:
    """Seconds of one call of one decoder."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        began = time.monotonic()
        decode(video, wanted, Path(folder), decoders=[decoder])
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument(
        "--seconds", type=int, default=8, help="of each of the two videos (480 x 480, 24 a second)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = [str(Path(folder) / f"{group}.mp4") for group in (24, 250)]
        for video, group in zip(videos, (24, 250), strict=True):
            write_clip(Path(video), given.seconds, group=group)
        together: dict[str, list[dict[str, float]]] = {"each": [], "node": []}
        singles: dict[tuple[str, str, str], list[float]] = {}
        frames = given.seconds * 24
        wants = {
            "16 spread": [int((i + 0.5) * frames / 16) for i in range(16)],
            "all": list(range(frames)),
        }
        for round_ in range(given.rounds):
            for kind in ("each", "node") if round_ % 2 else ("node", "each"):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    together[kind].append(
                        read_together(videos, given.processes, Path(place), kind == "node")
                    )
            for video, (want, wanted), decoder in itertools.product(
                videos, wants.items(), ("pyav", "decord")
            ):
                key = (f"key frame every {Path(video).stem}", want, decoder)
                singles.setdefault(key, []).append(alone(video, decoder, wanted, Path(folder)))
    print(
        f"{given.processes} processes, 2 videos of {frames} frames; medians of {given.rounds} rounds"
    )
    middle = {
        k: {n: statistics.median(r[n] for r in rows) for n in rows[0]}
        for k, rows in together.items()
    }
    for name in ("shown", "all", "cpu", "decoded"):
        each = middle["each"][name]
        node = middle["node"][name]
        print(f"{name:<8} each {each:8.2f}   node {node:8.2f}   ratio {each / node:5.2f}")
    for (group_name, want, _), times in ((k, v) for k, v in singles.items() if k[2] == "pyav"):
        pyav = statistics.median(times)
        decord = statistics.median(singles[group_name, want, "decord"])
        print(
            f"{group_name}, {want:<9}: pyav {pyav:6.2f} s   decord {decord:6.2f} s   ratio {decord / pyav:5.2f}"
        )


if __name__ == "__main__":
    main()
