"""Frames decoded once for a node against once for each process: `python -m benchmarks.decoding`.

Processes read the same frames of the same videos at the same time, as the actors of a node do: of
each video 16 frames spread over it (a dialogue), then all of them from end to end (a tracker).
"each" gives every process a store of its own, "node" one to all. Wall seconds are those of the
slowest process; "cpu" (seconds of readers and decoders) and "decoded" (frames) are sums over all
processes. One process alone also compares PyAV with decord, seeking and from end to end. Ratios are
within one run, so a slow or busy machine moves both sides.

    python -m benchmarks.decoding --old FOLDER

compares the CPU seconds of this tree with those of another one, such as `git archive` of an older
commit makes, round by round.
"""

from __future__ import annotations

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

from benchmarks.measuring import argument_parser
from data.frames import frame_store
from data.frames.decoders import decode
from data.frames.probing import probe
from data.frames.reading import Clip, read_frames
from tiny.world.clip import write_clip

FRAME_RATE = 24
# Frames between two key frames of the two videos.
KEY_FRAME_DISTANCES = (24, 250)

Figures = dict[str, float]


def read_all(paths: Sequence[str]) -> None:
    """Read the videos; run in a process of its own, which waits for a line before and after."""
    # The folder of the store is then TMPDIR.
    frame_store.SHARED_MEMORY = Path("/none")
    videos = [probe(path) for path in paths]
    store = frame_store.node_store()
    print("ready", flush=True)
    sys.stdin.readline()

    began = time.monotonic()
    cpu_began = sum(os.times()[:4])
    for video in videos:
        read_frames(video, spread_frames(video.num_frames))
    shown = time.monotonic() - began
    for video in videos:
        clip = Clip(video)
        for start in range(0, video.num_frames, 8):
            clip[start : start + 8]
    figures = {
        "shown": shown,
        "all": time.monotonic() - began - shown,
        "cpu": sum(os.times()[:4]) - cpu_began,
        "decoded": store.added,
    }
    print(json.dumps(figures), flush=True)
    # The last process to leave empties the store, so all stay until the end.
    sys.stdin.readline()


def spread_frames(num_frames: int) -> list[int]:
    return [int((i + 0.5) * num_frames / 16) for i in range(16)]


def read_together(videos: Sequence[str], processes: int, place: Path, shared: bool) -> Figures:
    """Return the seconds of the slowest process, and CPU seconds and decoded frames of all."""
    readers = []
    for number in range(processes):
        folder = place / ("node" if shared else f"each-{number}")
        folder.mkdir(exist_ok=True)
        reader = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.decoding", "--read", *videos],
            env=os.environ | {"TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        readers.append(reader)
    for reader in readers:
        assert _receive(reader) == "ready"
    for reader in readers:
        _send(reader)
    reports = [json.loads(_receive(reader)) for reader in readers]
    for reader in readers:
        _send(reader)
    for reader in readers:
        assert reader.wait() == 0

    figures: Figures = {}
    for name in ("shown", "all"):
        figures[name] = max(report[name] for report in reports)
    for name in ("cpu", "decoded"):
        figures[name] = sum(report[name] for report in reports)
    return figures


def _receive(reader: subprocess.Popen[str]) -> str:
    assert reader.stdout is not None
    return reader.stdout.readline().strip()


def _send(reader: subprocess.Popen[str]) -> None:
    assert reader.stdin is not None
    reader.stdin.write("go\n")
    reader.stdin.flush()


def decode_alone(video: str, decoder: str, frames: Sequence[int], place: Path) -> float:
    """Return the seconds of one call of one decoder."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        began = time.monotonic()
        decode(video, frames, Path(folder), decoders=[decoder])
        return time.monotonic() - began


def in_tree(tree: Path, video: str) -> list[float]:
    """Return the CPU seconds of one process that reads a video with the code of a tree."""
    script = Path(__file__).with_name("decoding_in_tree.py")
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, str(script), video],
            env=os.environ | {"TMPDIR": folder, "PYTHONPATH": str(tree)},
            cwd=tree,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    seconds: list[float] = json.loads(run.stdout)
    return seconds


def compare_trees(old: Path, videos: Sequence[str], rounds: int) -> None:
    """Read each video with both trees in turn; print the medians, and the ratio old to new."""
    trees = {"old": old.resolve(), "new": Path(__file__).parents[1].resolve()}
    for video in videos:
        seconds: dict[str, list[list[float]]] = {"old": [], "new": []}
        for number in range(rounds):
            for kind in ("old", "new") if number % 2 else ("new", "old"):
                seconds[kind].append(in_tree(trees[kind], video))
        for place, name in enumerate(("16 spread", "all")):
            before, after = (
                statistics.median(each[place] for each in seconds[kind]) for kind in ("old", "new")
            )
            print(
                f"{Path(video).name}, {name:<9}: old {before:6.2f} s   new {after:6.2f} s   "
                f"ratio {before / after:5.2f}",
                flush=True,
            )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument(
        "--seconds", type=int, default=8, help="of each video (480 x 480, 24 a second)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", nargs="+", help="read these videos; used by the benchmark itself")
    parser.add_argument("--old", type=Path, help="another tree, to be compared with this one")
    arguments = parser.parse_args()
    if arguments.read:
        read_all(arguments.read)
        return

    num_frames = arguments.seconds * FRAME_RATE
    wanted = {"16 spread": spread_frames(num_frames), "all": list(range(num_frames))}
    together: dict[str, list[Figures]] = {"each": [], "node": []}
    alone: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        videos = []
        for distance in KEY_FRAME_DISTANCES:
            video = Path(folder) / f"{distance}.mp4"
            write_clip(video, arguments.seconds, group=distance)
            videos.append(str(video))
        if arguments.old:
            compare_trees(arguments.old, videos, arguments.rounds)
            return
        for number in range(arguments.rounds):
            # Which of the two comes first alternates.
            order = ("each", "node") if number % 2 else ("node", "each")
            for kind in order:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    shared = kind == "node"
                    figures = read_together(videos, arguments.processes, Path(place), shared)
                    together[kind].append(figures)
            for path, name, decoder in itertools.product(videos, wanted, ("pyav", "decord")):
                seconds = decode_alone(path, decoder, wanted[name], Path(folder))
                alone.setdefault((Path(path).stem, name, decoder), []).append(seconds)

    print(
        f"{arguments.processes} processes, 2 videos of {num_frames} frames; "
        f"medians of {arguments.rounds} rounds"
    )
    print_together(together)
    print_alone(alone)


def print_together(together: dict[str, list[Figures]]) -> None:
    for name in ("shown", "all", "cpu", "decoded"):
        each = statistics.median(figures[name] for figures in together["each"])
        node = statistics.median(figures[name] for figures in together["node"])
        print(f"{name:<8} each {each:8.2f}   node {node:8.2f}   ratio {each / node:5.2f}")


def print_alone(alone: dict[tuple[str, str, str], list[float]]) -> None:
    for (distance, name, decoder), times in alone.items():
        if decoder != "pyav":
            continue
        pyav = statistics.median(times)
        decord = statistics.median(alone[distance, name, "decord"])
        print(
            f"key frame every {distance}, {name:<9}: pyav {pyav:6.2f} s   "
            f"decord {decord:6.2f} s   ratio {decord / pyav:5.2f}"
        )


if __name__ == "__main__":
    main()
