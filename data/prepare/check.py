"""All errors of a data set at once: the reading goes on after each.

`read_all` collects the errors in its files and returns the readable samples. `problems` also looks
at every frame and every mask, and takes long. A distributed check calls `read_all` once and
`data.prepare.verify.problems_of_video` for each video.
"""

from __future__ import annotations

from pathlib import Path

from core.types import Sample
from data.fields import Faults
from data.load import reader_of
from data.prepare.verify import problems_of_video, short


def read_all(format: str, root: str, split: str) -> tuple[list[Sample], list[str]]:
    """Return the readable samples of a split, and all errors of its files.

    Each error names the file and the field. Missing frames are left to `data.prepare.verify` if a
    video has some of its frames.
    """
    faults = Faults(collect=True, frames_later=True)
    samples: list[Sample] = []
    try:
        with faults.noted():
            samples = reader_of(format)(Path(root).resolve(), split, faults)
    # The check of a data set ends with a list of its errors, whatever they are.
    except Exception as error:
        faults.found[f"{Path(root) / split}: cannot be read ({short(error)})"] = None

    seen: set[str] = set()
    for sample in samples:
        if sample.uid in seen:
            where = Path(root) / split
            faults.report(f"{where}: two samples are called {sample.uid!r}: rename one of them")
        seen.add(sample.uid)
    return samples, list(faults.found)


def problems(format: str, root: str, split: str) -> list[str]:
    """Return all problems of a split: in its files, frames, masks and sentences."""
    samples, found = read_all(format, root, split)
    by_video: dict[str, list[Sample]] = {}
    for sample in samples:
        by_video.setdefault(sample.video.uid, []).append(sample)
    for of_video in by_video.values():
        for problem in problems_of_video(of_video[0].video, of_video):
            found.append(problem.text)
    return list(dict.fromkeys(found))
