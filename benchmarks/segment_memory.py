"""Peak memory of `ray_jobs.segment` on a short and on a long clip: `python benchmarks/segment_memory.py`.

Makes clips of one scene of the generator (480 x 480, 24 frames a second), runs `segment` on each, and looks at the
whole tree of processes (driver, Ray, engine, segmenter, decoders) ten times a second. Memory is resident memory; in
the sum, pages that several processes map count several times. "frames" is the node's store of decoded frames.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from data.frames.frame_store import node_store
from tiny.world.clip import write_clip

INTERVAL_S = 0.1
SENTENCE = "the blue triangle"


def resident(root: psutil.Process) -> Iterator[tuple[str, int]]:
    """(what it is, bytes) of every process of the tree."""
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            words = " ".join(process.cmdline()[:1])
            name = next((n for n in ("SegmenterActor", "RolloutActor") if n in words), "other")
            yield "driver" if process == root else name, process.memory_info().rss


def peaks(clip: Path, out: Path, settings: list[str]) -> dict[str, float]:
    """Largest figures of one run, in MiB, and its seconds."""
    command = [
        sys.executable,
        "-m",
        "ray_jobs.segment",
        str(clip),
        SENTENCE,
        "--out",
        str(out),
        *settings,
    ]
    began = time.monotonic()
    most = {"all": 0, "driver": 0, "SegmenterActor": 0, "RolloutActor": 0, "frames": 0}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        root = psutil.Process(run.pid)
        while run.poll() is None:
            now = dict.fromkeys(most, 0)
            for name, size in resident(root):
                now["all"] += size
                now[name] = max(now.get(name, 0), size)
            with suppress(FileNotFoundError):  # a file that goes while it is looked at
                now["frames"] = sum(f.stat().st_size for f in node_store().folder.glob("*.npy"))
            most = {name: max(most[name], now[name]) for name in most}
            time.sleep(INTERVAL_S)
    assert run.stdout is not None
    if run.returncode:
        sys.exit(f"segment failed on {clip}")
    return {name: size / 2**20 for name, size in most.items()} | {
        "seconds": time.monotonic() - began
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, nargs=2, default=[15, 60], help="of the two clips")
    parser.add_argument("settings", nargs="*", help="key=value")
    given = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for seconds in given.seconds:
            clip = Path(folder) / f"{seconds}s.mp4"
            write_clip(clip, seconds)
            found.append(peaks(clip, Path(folder) / "out", given.settings))
            figures = ", ".join(f"{name} {value:.0f}" for name, value in found[-1].items())
            print(f"{seconds} s clip: {figures}", flush=True)
    short, long = found
    for name in ("all", "SegmenterActor", "driver", "frames"):
        print(
            f"{name:<15} {short[name]:7.0f} MiB -> {long[name]:7.0f} MiB   x {long[name] / max(short[name], 1):.2f}"
        )


if __name__ == "__main__":
    main()
