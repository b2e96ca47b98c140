"""Figures of a split: its counts, the objects of a sentence, their visibility and size, its words.

They come from samples and their tables (`data.prepare.tables`): no mask is decoded twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.types import Sample, Video
from data.prepare.tables import TableKey, TargetTable

PERCENTILES = (5, 25, 50, 75, 95)
NO_KIND = "(none)"
# Entries of a count that a line of the table shows.
SHOWN = 8


def statistics(samples: Sequence[Sample], tables: Mapping[TableKey, TargetTable]) -> dict[str, Any]:
    """Return the figures of a split, ready for JSON.

    Objects, visible shares and areas count each object of a video once, however many sentences
    refer to it. Objects without a table have broken masks and are left out. Areas are shares of the
    frame, over the frames with the object.
    """
    videos = {sample.video.uid: sample.video for sample in samples}
    num_frames = [video.num_frames for video in videos.values()]
    sizes = Counter(f"{video.height} x {video.width}" for video in videos.values())
    objects = _tables_of(samples, tables)

    expressions_of_video = Counter(sample.video.uid for sample in samples)
    num_objects = Counter(len(sample.targets) for sample in samples)
    kinds = Counter(sample.kind or NO_KIND for sample in samples)
    return {
        "videos": len(videos),
        "expressions": len(samples),
        "expressions_with_target": len(samples) - num_objects[0],
        "frames": sum(num_frames),
        "objects": len(objects),
        "expressions_per_video": _spread(list(expressions_of_video.values())),
        "frames_per_video": _spread(num_frames),
        "objects_per_expression": _by_number(num_objects),
        "visible_share": _spread(_visible_shares(objects)),
        "area_share": _spread(_area_shares(objects, videos)),
        "words_per_query": _spread(_words_of_queries(samples)),
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


def _words_of_queries(samples: Sequence[Sample]) -> list[int]:
    return [len(sample.query.split()) for sample in samples]


def _by_number(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(number): count for number, count in sorted(counts.items())}


def _tables_of(
    samples: Sequence[Sample], tables: Mapping[TableKey, TargetTable]
) -> list[TargetTable]:
    """Return the tables of all objects of the samples, each once."""
    keys: dict[TableKey, None] = {}
    for sample in samples:
        for target in sample.targets:
            keys[sample.video.uid, target.uid] = None
    return [tables[key] for key in keys if key in tables]


def _visible_shares(objects: Sequence[TargetTable]) -> list[float]:
    """Return each object's share of frames with it in sight."""
    shares = []
    for table in objects:
        if len(table.areas_F):
            shares.append(float((table.areas_F > 0).mean()))
    return shares


def _area_shares(objects: Sequence[TargetTable], videos: Mapping[str, Video]) -> np.ndarray:
    shares = [np.zeros(0)]
    for table in objects:
        video = videos[table.video]
        visible = table.areas_F[table.areas_F > 0]
        shares.append(visible / (video.height * video.width))
    return np.concatenate(shares)


def _counts_text(counts: Mapping[str, int]) -> str:
    entries = [f"{name}: {count:,}" for name, count in counts.items()]
    text = ", ".join(entries[:SHOWN])
    if len(entries) > SHOWN:
        text += f", and {len(entries) - SHOWN} more"
    return text


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return mean, extremes and percentiles of some values; empty without values."""
    if not len(values):
        return {}
    array = np.asarray(values, dtype=np.float64)
    spread = {"mean": float(array.mean()), "min": float(array.min())}
    percentiles = np.percentile(array, PERCENTILES)
    for percent, value in zip(PERCENTILES, percentiles, strict=True):
        spread[f"p{percent}"] = float(value)
    spread["max"] = float(array.max())
    return spread


def _spread_text(spread: Mapping[str, float], scale: float) -> str:
    if not spread:
        return "-"
    scaled = {name: f"{scale * value:.1f}" for name, value in spread.items()}
    return f"{scaled['mean']} ({scaled['p50']}; {scaled['p5']} to {scaled['p95']})"
