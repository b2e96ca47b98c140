"""Figures of a split: its counts, the objects of a sentence, their visibility and size, its words.

They come from samples and their tables (`data.prepare.tables`), so that no mask is decoded twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from core.types import Sample, Video
from data.prepare.tables import Key, TargetTable

PERCENTILES = (5, 25, 50, 75, 95)
NO_KIND = "(none)"
# Entries of a count that a line of the table shows.
SHOWN = 8


def statistics(samples: Sequence[Sample], tables: Mapping[Key, TargetTable]) -> dict[str, Any]:
    """Return the figures of a split, ready for JSON.

    Objects, visible shares and areas count each object of a video once, however many sentences refer
    to it. Objects without a table have broken masks and are left out. Areas are shares of the frame,
    over the frames that show the object.
    """
    videos = {sample.video.uid: sample.video for sample in samples}
    objects = _tables_of(samples, tables)
    visible = [float((table.areas_F > 0).mean()) for table in objects if len(table.areas_F)]
    expressions_of_video = Counter(sample.video.uid for sample in samples)
    sizes = Counter(f"{video.height} x {video.width}" for video in videos.values())
    kinds = Counter(sample.kind or NO_KIND for sample in samples)
    return {
        "videos": len(videos),
        "expressions": len(samples),
        "expressions_with_target": sum(len(sample.targets) > 0 for sample in samples),
        "frames": sum(video.num_frames for video in videos.values()),
        "objects": len(objects),
        "expressions_per_video": _spread(list(expressions_of_video.values())),
        "frames_per_video": _spread([video.num_frames for video in videos.values()]),
        "objects_per_expression": _counts(len(sample.targets) for sample in samples),
        "visible_share": _spread(visible),
        "area_share": _spread(_area_shares(objects, videos)),
        "words_per_query": _spread([len(sample.query.split()) for sample in samples]),
        "kinds": dict(kinds.most_common()),
        "frame_sizes": dict(sizes.most_common()),
    }


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures as lines of a table for people: (name, value).

    A distribution reads "mean (median; 5 % to 95 %)".
    """
    lines = []
    for name in ("videos", "expressions", "frames", "objects"):
        lines.append((name, f"{found[name]:,}"))
    for name in ("expressions_per_video", "frames_per_video", "words_per_query"):
        lines.append((name.replace("_", " "), _spread_text(found[name], 1)))
    for name, title in (
        ("visible_share", "share of frames with the object, %"),
        ("area_share", "its area, % of frame"),
    ):
        lines.append((title, _spread_text(found[name], 100)))
    for name in ("objects_per_expression", "kinds", "frame_sizes"):
        lines.append((name.replace("_", " "), _counts_text(found[name])))
    return lines


def _tables_of(samples: Sequence[Sample], tables: Mapping[Key, TargetTable]) -> list[TargetTable]:
    """The tables of all objects of the samples, each once."""
    keys: dict[Key, None] = {}
    for sample in samples:
        for target in sample.targets:
            keys[sample.video.uid, target.uid] = None
    return [tables[key] for key in keys if key in tables]


def _area_shares(objects: Sequence[TargetTable], videos: Mapping[str, Video]) -> np.ndarray:
    shares = [np.zeros(0)]
    for table in objects:
        video = videos[table.video]
        visible = table.areas_F[table.areas_F > 0]
        shares.append(visible / (video.height * video.width))
    return np.concatenate(shares)


def _counts(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _counts_text(counts: Mapping[str, int]) -> str:
    shown = [f"{name}: {count:,}" for name, count in list(counts.items())[:SHOWN]]
    more = f", and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    return ", ".join(shown) + more


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean, extremes and percentiles of some values; empty without values."""
    if not len(values):
        return {}
    array = np.asarray(values, dtype=np.float64)
    spread = {"mean": float(array.mean()), "min": float(array.min())}
    for percent, value in zip(PERCENTILES, np.percentile(array, PERCENTILES), strict=True):
        spread[f"p{percent}"] = float(value)
    spread["max"] = float(array.max())
    return spread


def _spread_text(spread: Mapping[str, float], scale: float) -> str:
    if not spread:
        return "-"
    mean, low, median, high = (
        f"{scale * spread[name]:.1f}" for name in ("mean", "p5", "p50", "p95")
    )
    return f"{mean} ({median}; {low} to {high})"
