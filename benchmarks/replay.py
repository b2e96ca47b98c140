"""The replay page of a large run in a headless browser, opened from disk.

    python -m benchmarks.replay --episodes 10000

Writes a run of synthetic episodes, its page, and opens it several times: seconds until the list
stands, and milliseconds of a filter, each with the drawing. Needs a browser (`make browser`).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import argument_parser, spread
from core.files import append_lines
from ray_jobs.replay import write_site
from tests.browser import browser, installed

GROUP = 8
GROUPS_OF_A_STEP = 24
THOUGHT = "the square appears first and moves to the right while the others stand still. " * 6
# Each as a hand sets it: the field and its value.
FILTERS = (("search", "square 7"), ("end", "done"), ("reward-from", "1.5"), ("sort", "reward-"))


def episodes(count: int) -> Iterator[dict[str, Any]]:
    """Yield lines of episodes.jsonl, about 2 kB each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        group = number // GROUP
        turn = {
            "text": f"<think>{THOUGHT}</think><answer>{number}</answer>",
            "prompt": f"Find the object. {THOUGHT}",
            "tokens": 120,
            "complete": True,
            "version": group // GROUPS_OF_A_STEP,
            "frames": list(range(16)),
        }
        value = float(rng.random())
        yield {
            "step": 1 + group // GROUPS_OF_A_STEP,
            "sample": f"video{group % 900:05d}/0",
            "query": f"the square {group % 900} that moves",
            "kind": ("motion", "look", "order")[group % 3],
            "episode": number % GROUP,
            "end": "done" if value > 0.1 else "unreadable",
            "reward": 3 * value,
            "parts": {"format": 1.0, "temporal": value, "spatial": value},
            "advantage": value - 0.5,
            "turns": [turn, turn],
        }


def write_run(run: Path, count: int) -> None:
    run.mkdir()
    append_lines(run / "episodes.jsonl", *episodes(count))
    steps = count // GROUP // GROUPS_OF_A_STEP
    for step in range(1, steps + 1):
        append_lines(run / "metrics.jsonl", {"step": step, "reward": step / steps, "seconds": {}})


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if installed() is None:
        sys.exit("no browser is installed: make browser")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write_run(run, given.episodes)
        began = time.perf_counter()
        page = write_site([run])
        print(f"{given.episodes} episodes: page written in {time.perf_counter() - began:.2f} s")
        size = (page.parent / "data/index.js").stat().st_size
        print(f"index.js: {size / 1e6:.2f} MB")
        measure(page, Path(folder) / "profile", given.repeats)


def measure(page: Path, profile: Path, repeats: int) -> None:
    """Open the page some times; print seconds to open and milliseconds of each filter."""
    opened = []
    filtered: dict[str, list[float]] = {name: [] for name, _ in FILTERS}
    with browser(profile) as tab:
        for _ in range(repeats):
            began = time.perf_counter()
            tab.open(page.as_uri())
            opened.append(time.perf_counter() - began)
            for name, value in FILTERS:
                filtered[name].append(tab.value(_filtered_in(name, value)))
    print(f"open: {spread(opened)} s")
    for name, values in filtered.items():
        print(f"filter {name}: {spread(values, '.1f')} ms")


def _filtered_in(name: str, value: str) -> str:
    """Return the script that sets a filter and gives its milliseconds, the layout included."""
    return f"""
        (() => {{
            const field = document.getElementById({name!r});
            field.value = {value!r};
            const began = performance.now();
            field.dispatchEvent(new Event("input", {{ bubbles: true }}));
            document.getElementById("list").getBoundingClientRect();
            return performance.now() - began;
        }})()
    """


if __name__ == "__main__":
    main()
