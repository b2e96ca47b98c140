"""Screenshots of the replay page of a run, as docs/replay.md shows them.

    python -m tests.ray_jobs.replay_pictures runs/revseg_tiny docs/pictures

Writes FOLDER/replay_<system>_<view>.png. Needs a browser (`make browser`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from ray_jobs.replay import write_site
from tests.browser import Browser, browser, installed

VIEWS = ("episode", "group")
WIDTH = 1400
HEIGHT = 900
# A kept training episode of the last step, neither the best nor the worst.
CHOSEN = """
    (() => {
        const rows = page.list.all.filter((row) => row.kept && !row.run.sources[row.source].how);
        const last = rows.filter((row) => row.step === rows[rows.length - 1].step);
        sortRows(last, "reward-");
        return last[Math.floor(last.length / 3)].number;
    })()
"""
SHOWN = "[...document.querySelectorAll('.thumb img')].every((image) => image.complete)"


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.ray_jobs.replay_pictures")
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    if installed() is None:
        sys.exit("no browser is installed: make browser")
    page = write_site([given.run])
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as tab:
        take(tab, page, given.folder)


def take(tab: Browser, page: Path, folder: Path) -> None:
    """Take a picture of each view."""
    tab.open(page.as_uri())
    system = tab.value("page.runs[0].system")
    number = tab.value(CHOSEN)
    for view in VIEWS:
        tab.open(f"{page.as_uri()}#{view}/0/{number}")
        tab.until(SHOWN)
        # Pictures are drawn when they have arrived.
        tab.value("new Promise((done) => setTimeout(done, 500))")
        file = folder / f"replay_{system}_{view}.png"
        tab.screenshot(file, WIDTH, HEIGHT)
        print(file)


if __name__ == "__main__":
    main()
