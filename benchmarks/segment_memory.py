"""Peak memory of `ray_jobs.segment` on a short and on a long clip.

    python -m benchmarks.segment_memory [--seconds 15 60] [--rates 24 24]

Makes clips of one scene of the generator (480 x 480, 24 frames a second or as told), runs
`segment` on each, and looks at the whole tree of processes (driver, Ray, engine, segmenter,
decoders) ten times a second. Memory is resident memory; in the sum, pages mapped by several
processes count several times. "frames" is the node's store of decoded frames, and "node" the sum of
both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.measuring import argument_parser
from data.frames.frame_store import node_store
from tiny.world.clip import write_clip

INTERVAL_S = 0.1
QUERY = "the blue triangle"
ACTORS = ("SegmenterActor", "RolloutActor")


def resident(root: psutil.Process) -> Iterator[tuple[str, int]]:
    """Yield (name, bytes) of every process of the tree."""
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline()[:1])
            name = "other"
            for actor in ACTORS:
                if actor in command:
                    name = actor
            if process == root:
                name = "driver"
            yield name, process.memory_info().rss


def stored_frames() -> int:
    """Bytes of the decoded frames on this node."""
    # A file may go while it is looked at.
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in node_store().folder.glob("*.npy"))
    return 0


def peaks(clip: Path, out: Path, settings: Sequence[str]) -> dict[str, float]:
    """Return the largest figures of one run, in MiB, and its seconds."""
    job = [sys.executable, "-m", "ray_jobs.segment"]
    command = [*job, str(clip), QUERY, "--out", str(out), *settings]
    most = {"all": 0, "driver": 0, "SegmenterActor": 0, "RolloutActor": 0}
    most |= {"frames": 0, "node": 0}
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        root = psutil.Process(run.pid)
        while run.poll() is None:
            now = dict.fromkeys(most, 0)
            for name, size in resident(root):
                now["all"] += size
                now[name] = max(now.get(name, 0), size)
            now["frames"] = stored_frames()
            now["node"] = now["all"] + now["frames"]
            most = {name: max(most[name], now[name]) for name in most}
            time.sleep(INTERVAL_S)
    if run.returncode:
        sys.exit(f"segment failed on {clip}")
    figures = {name: size / 2**20 for name, size in most.items()}
    figures["seconds"] = time.monotonic() - began
    return figures


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=int, nargs=2, default=[15, 60], help="of the two clips")
    parser.add_argument("--rates", type=int, nargs=2, default=[24, 24], help="frames a second")
    parser.add_argument("settings", nargs="*", help="key=value")
    arguments = parser.parse_intermixed_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds, rate in zip(arguments.seconds, arguments.rates, strict=True):
            clip = Path(folder) / f"{seconds}s.mp4"
            write_clip(clip, seconds, fps=rate)
            figures = peaks(clip, Path(folder) / "out", arguments.settings)
            found.append(figures)
            line = ", ".join(f"{name} {value:.0f}" for name, value in figures.items())
            print(f"{seconds} s clip of {seconds * rate} frames: {line}", flush=True)
    short, long = found
    for name in ("all", "SegmenterActor", "driver", "frames", "node"):
        ratio = long[name] / max(short[name], 1)
        print(f"{name:<15} {short[name]:7.0f} MiB -> {long[name]:7.0f} MiB   x {ratio:.2f}")


if __name__ == "__main__":
    main()
