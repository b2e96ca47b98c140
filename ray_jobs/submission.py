"""The zip that a benchmark's server takes, from the predictions of an evaluation.

    python -m ray_jobs.submission runs/<name>/evaluate                       layout by the data's format
    python -m ray_jobs.submission runs/<name>/evaluate ref_youtube_vos out.zip

Layouts:

    ref_youtube_vos    Annotations/<video>/<expression>/<frame>.png    the server wants the top folder
    mevis              <video>/<expression>/<frame>.png                and this one wants none

Images are 8-bit grey, 0 and 255, at the size of the video, for the frames that the data set lists and no others. Where
the truth is not public, evaluate with data.no_target=keep first. The same predictions give the same bytes.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.masks import decode
from ray_jobs.record.predictions import Predictions

LAYOUTS = {"ref_youtube_vos": "Annotations/", "mevis": ""}  # what stands before <video>
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip can tell


def submission(folder: Path, layout: str = "", target: Path | None = None) -> Path:
    """Writes the zip (default: `folder`/<layout>.zip), whole or not at all, and returns its path.

    Raises ValueError for a folder without predictions, an unknown layout, and an evaluation that is not finished:
    a server counts what is not there as wrong.
    """
    predictions = Predictions.read(folder)
    identity = predictions.identity
    layout = layout or str(identity.get("data.format"))
    if layout not in LAYOUTS:
        raise ValueError(
            f"layout {layout!r}: there is no server for it here; known: {', '.join(LAYOUTS)}"
        )
    whole = identity.get("expressions", 0)
    if len(predictions.finished) < whole:
        raise ValueError(
            f"{folder}: {len(predictions.finished)} of {whole} expressions have a prediction: start evaluate again, "
            "with evaluate.samples=0, to play the others"
        )
    target = target or folder / f"{layout}.zip"
    fresh = target.with_name(f".{target.name}.new")
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as file:  # PNGs are compressed already
        for line in predictions.lines(sorted(predictions.finished)):
            for name, mask in images(line):
                file.writestr(zipfile.ZipInfo(LAYOUTS[layout] + name, EPOCH), mask)
    os.replace(fresh, target)
    return target


def images(line: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    """("<video>/<expression>/<frame>.png", PNG) for each frame of a line of predictions; no mask is a black image."""
    empty = _png(np.zeros((line["height"], line["width"]), dtype=bool))
    place = f"{line['video']}/{line['expression']}"
    return [
        (f"{place}/{frame}.png", empty if rle is None else _png(decode(rle)))
        for frame, rle in zip(line["frames"], line["masks"], strict=True)
    ]


def _png(mask_HW: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask_HW.astype(np.uint8) * 255).save(out, "PNG", compress_level=1)
    return out.getvalue()


def main(argv: Sequence[str]) -> None:
    if not argv or "-h" in argv or "--help" in argv or len(argv) > 3:
        print(__doc__)
        raise SystemExit(0 if "-h" in argv or "--help" in argv else 2)
    target = submission(
        Path(argv[0]), argv[1] if len(argv) > 1 else "", Path(argv[2]) if len(argv) > 2 else None
    )
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
