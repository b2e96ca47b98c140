"""Pictures of a run for the documentation, taken in headless Chromium.

    python -m tests.screenshots runs/NAME --to docs/pictures
    python -m tests.screenshots runs/NAME runs/OTHER --to docs/pictures

Each is named by the first run and the view: NAME_episode.webp, NAME_group.webp, ... of the replay
page, and NAME_overlay.webp with some frames of the overlay video of the highest J&F. The episode is
that of the highest reward among those with pictures; NAME_entropy.webp shows its tokens. With two
runs the view that compares them is taken too, and that of MLflow (NAME_mlflow.webp), to which they
are sent for it. `make browser` installs Chromium.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from ray_jobs.record.overlay import PANEL
from ray_jobs.replay import write_site
from tests.browser import Browser, browser, installed
from tests.mlflow_pictures import picture as mlflow_picture

VIEWS = ("overview", "episode", "group", "sample")
QUALITY = 80
# Frames of an overlay video side by side, each this many pixels high.
STRIP = 5
STRIP_HEIGHT = 280
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
        tab.open(page.absolute().as_uri())
        tab.value(CHOOSE)
        for view in views:
            # The promise ends when the view is there.
            tab.value(f"open(page.list.chosen, '{view}')")
            file = folder / f"{runs[0].name}_{view}.webp"
            _picture(tab, Path(profile) / "view.png", file)
            written.append(file)
        tab.value("open(page.list.chosen, 'episode')")
        tab.value("page.dialogue.shade(page.dialogue.shadings.at(-1) || '')")
        tab.value("page.dialogue.element.scrollIntoView()")
        written.append(folder / f"{runs[0].name}_entropy.webp")
        _picture(tab, Path(profile) / "view.png", written[-1])
    return written


def comparison(runs: list[Path], folder: Path) -> Path:
    """Write a picture of MLflow's compare view of two runs."""
    file = folder / f"{runs[0].name}_mlflow.webp"
    with tempfile.TemporaryDirectory() as home:
        raw = Path(home) / "view.png"
        mlflow_picture(runs, raw)
        _write(raw, file)
    return file


def strip(run: Path, folder: Path) -> list[Path]:
    """Write some frames of the best overlay video of a run side by side, if it has any."""
    # Named by step and J&F.
    videos = sorted((run / "evaluation").glob("step_*/overlays/*.mp4"), key=_figure)
    if not videos:
        return []
    frames = _distinct_frames(videos[-1])
    places = np.linspace(0, len(frames) - 1, STRIP + 2).round().astype(int)[1:-1]
    # The panel with the text stands on the right.
    image_HWC = np.hstack([frames[place][:, :-PANEL] for place in places])
    height, width = image_HWC.shape[:2]
    size = (round(width * STRIP_HEIGHT / height), STRIP_HEIGHT)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{run.name}_overlay.webp"
    Image.fromarray(image_HWC).resize(size, Image.Resampling.LANCZOS).save(
        file, quality=QUALITY, method=6
    )
    return [file]


def _distinct_frames(file: Path) -> list[np.ndarray]:
    """The frames of a video; those of a keyframe that is held count once."""
    frames: list[np.ndarray] = []
    with av.open(str(file)) as video:
        for decoded in video.decode(video=0):
            image_HWC = decoded.to_ndarray(format="rgb24")
            # Compression changes pictures that stay by less than this.
            if not frames or cv2.norm(image_HWC, frames[-1], cv2.NORM_L1) > image_HWC.size:
                frames.append(image_HWC)
    return frames


def _figure(video: Path) -> tuple[int, str]:
    return int(video.parent.parent.name.removeprefix("step_")), video.name


def _picture(tab: Browser, raw: Path, file: Path) -> None:
    """Write what the tab shows."""
    tab.until(LOADED)
    tab.screenshot(raw)
    # The first picture gives the window its size; parts that follow the size move after it.
    tab.until(LOADED)
    tab.screenshot(raw)
    _write(raw, file)


def _write(raw: Path, file: Path) -> None:
    """Write a picture as a small one."""
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
    files = take(given.runs, given.to) + strip(given.runs[0], given.to)
    if len(given.runs) > 1:
        files.append(comparison(given.runs, given.to))
    for file in files:
        print(f"{file}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
