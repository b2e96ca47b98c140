"""Pictures of the replay page for the documentation, taken in headless Chromium.

    python -m tests.screenshots runs/NAME --to docs/pictures
    python -m tests.screenshots runs/NAME runs/OTHER --to docs/pictures

Each is named by the first run and the view: NAME_episode.webp, NAME_group.webp, ... The episode is
that of the highest reward among those with pictures. With two runs the view that compares them is
taken, too. `make browser` installs Chromium.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from ray_jobs.replay import write_site
from tests.browser import Browser, browser, installed

VIEWS = ("overview", "episode", "group", "sample")
QUALITY = 80
# All pictures in sight have arrived.
LOADED = (
    "[...document.querySelectorAll('#main img')]"
    ".filter((image) => image.getBoundingClientRect().top < innerHeight)"
    ".every((image) => image.complete)"
)
CHOOSE = (
    "(() => { document.getElementById('only-kept').click();"
    "const best = extreme(1); return open(best, 'episode'); })()"
)


def take(runs: list[Path], folder: Path) -> list[Path]:
    """Write the page of some runs and a picture of each of its views.

    Args:
        folder: Where the pictures go; made if it is missing.

    Raises:
        ValueError: A run cannot be shown.
    """
    page = write_site(runs)
    views = VIEWS if len(runs) == 1 else (*VIEWS, "compare")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as tab:
        tab.open(page.as_uri())
        tab.value(CHOOSE)
        for view in views:
            # The promise ends when the view is there.
            tab.value(f"open(page.list.chosen, '{view}')")
            file = folder / f"{runs[0].name}_{view}.webp"
            _picture(tab, Path(profile) / "view.png", file)
            written.append(file)
    return written


def _picture(tab: Browser, raw: Path, file: Path) -> None:
    """Write what the tab shows."""
    tab.until(LOADED)
    tab.screenshot(raw)
    # The first picture gives the window its size; parts that follow the size move after it.
    tab.until(LOADED)
    tab.screenshot(raw)
    with Image.open(raw) as image:
        image.convert("RGB").save(file, quality=QUALITY, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--to", type=Path, default=Path("docs/pictures"), metavar="FOLDER")
    given = parser.parse_args()
    if installed() is None:
        raise SystemExit("no browser is installed: make browser installs Chromium")
    for file in take(given.runs, given.to):
        print(f"{file}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
