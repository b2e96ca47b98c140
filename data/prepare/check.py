"""Everything that is wrong with a data set, at once: the reading goes on after each error.

`read_all` notes what is wrong with its files and gives what can be read; `problems` also looks at every frame and every
mask, which takes long: a distributed check calls `read_all` once and `data.prepare.verify.problems_of_video` for each video.
"""

from __future__ import annotations

from pathlib import Path

from core.types import Sample
from data.load import reader
from data.prepare.verify import problems_of_video
from data.readers.fields import Faults


def read_all(format: str, root: str, split: str) -> tuple[list[Sample], list[str]]:
    """What can be read of a split, and all that is wrong with its files, each naming file and field; the frames of a
    video that has some of them are left to `data.prepare.verify`."""
    faults = Faults(collect=True, frames_later=True)
    samples = list[Sample]()
    with faults.noted():
        samples = reader(format)(Path(root).resolve(), split, faults)
    seen: set[str] = set()
    for sample in samples:
        if sample.uid in seen:
            faults.report(
                f"{Path(root) / split}: two samples are called {sample.uid!r}: rename one of them"
            )
        seen.add(sample.uid)
    return samples, list(faults.found)


def problems(format: str, root: str, split: str) -> list[str]:
    """All that is wrong or odd: files, frames, masks and sentences; empty if all is well."""
    samples, found = read_all(format, root, split)
    videos: dict[str, list[Sample]] = {}
    for sample in samples:
        videos.setdefault(sample.video.uid, []).append(sample)
    for its in videos.values():
        found += [problem.text for problem in problems_of_video(its[0].video, its)]
    return list(dict.fromkeys(found))
