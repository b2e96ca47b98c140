"""Make the zip for a benchmark's server from the predictions of an evaluation.

    python -m ray_jobs.submission runs/<name>/evaluate
    python -m ray_jobs.submission runs/<name>/evaluate ref_youtube_vos out.zip

The layout is by default that of `data.format`. Layouts:

    ref_youtube_vos    Annotations/<video>/<expression>/<frame>.png    with a top folder
    mevis              <video>/<expression>/<frame>.png                without one

Images are 8-bit grey, 0 and 255, at the size of the video, for the frames listed by the data set
and no others. Without public truth, evaluate with data.no_target=keep first. The same predictions
give the same bytes.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.files import replacing
from core.masks import decode
from data.fields import inside
from ray_jobs.driver.entry import run_job
from ray_jobs.record.predictions import Predictions

# Layout -> the path before <video>.
LAYOUTS = {"ref_youtube_vos": "Annotations/", "mevis": ""}
# The earliest time that a zip can hold: the same for all files, so that bytes repeat.
EPOCH = (1980, 1, 1, 0, 0, 0)


def submission(folder: Path, layout: str = "", target: Path | None = None) -> Path:
    """Write the zip, whole or not at all, and return its path.

    Args:
        folder: An evaluation's folder.
        layout: A key of `LAYOUTS`; by default the data's format.
        target: The zip; by default `folder`/<layout>.zip.

    Raises:
        ValueError: A folder without predictions, an unknown layout, or an unfinished evaluation: a
            server counts missing predictions as wrong.
    """
    predictions = Predictions.read(folder)
    identity = predictions.identity
    layout = layout or str(identity.get("data.format"))
    if layout not in LAYOUTS:
        raise ValueError(
            f"layout {layout!r}: there is no server for it here; known: {', '.join(LAYOUTS)}"
        )
    total = identity.get("expressions", 0)
    finished = sorted(predictions.finished)
    if len(finished) < total:
        raise ValueError(
            f"{folder}: {len(finished)} of {total} expressions have a prediction: start evaluate "
            "again, with evaluate.samples=0, to play the others"
        )

    target = target or folder / f"{layout}.zip"
    # PNGs are compressed already, so they are only stored.
    with replacing(target) as fresh, zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as file:
        for line in predictions.lines(finished):
            for name, png in images(line):
                file.writestr(zipfile.ZipInfo(LAYOUTS[layout] + name, EPOCH), png)
    return target


def images(line: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield "<video>/<expression>/<frame>.png" and the PNG for each frame of a line of predictions.

    A frame without a mask is a black image.

    Raises:
        ValueError: A name leads out of the zip's folder.
    """
    size = (line["height"], line["width"])
    black = _png(np.zeros(size, dtype=bool))
    for frame, rle in zip(line["frames"], line["masks"], strict=True):
        name = f"{line['video']}/{line['expression']}/{frame}.png"
        inside(name, f"the prediction of {line['uid']!r:.80}", "a name in the zip")
        yield name, black if rle is None else _png(decode(rle))


def _png(mask_HW: np.ndarray) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(mask_HW.astype(np.uint8) * 255)
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def main(argv: Sequence[str]) -> None:
    asks_help = "-h" in argv or "--help" in argv
    if asks_help or not 1 <= len(argv) <= 3:
        print(__doc__)
        sys.exit(0 if asks_help else 2)

    layout = argv[1] if len(argv) > 1 else ""
    target = Path(argv[2]) if len(argv) > 2 else None
    written = submission(Path(argv[0]), layout, target)
    print(f"{written}: {written.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_job(main)
