"""What is in a split: counts, how many objects a sentence means, how visible and how large they are, its words.

Works on samples and their tables (`data.prepare.tables`), so that no mask is decoded twice. This file counts and
prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.types import Sample
from data.prepare.tables import Key, TargetTable

PERCENTILES = (5, 25, 50, 75, 95)
NO_KIND = "(none)"


def statistics(samples: Sequence[Sample], tables: Mapping[Key, TargetTable]) -> dict[str, Any]:
    """Figures of a split, JSON-able.

    Objects, visible shares and areas count each object of a video once, however many sentences mean it; objects that
    have no table (their masks are broken) are left out. Areas are shares of the frame, over frames where the object
    is visible.
    """
    videos = {sample.video.uid: sample.video for sample in samples}
    keys = dict.fromkeys(
        (sample.video.uid, target.uid) for sample in samples for target in sample.targets
    )
    objects = [tables[key] for key in keys if key in tables]
    areas = [
        t.areas_F[t.areas_F > 0] / (videos[t.video].height * videos[t.video].width) for t in objects
    ]
    visible = [float((t.areas_F > 0).mean()) for t in objects if len(t.areas_F)]
    return {
        "videos": len(videos),
        "expressions": len(samples),
        "expressions_with_target": sum(len(sample.targets) > 0 for sample in samples),
        "frames": sum(video.num_frames for video in videos.values()),
        "objects": len(objects),
        "expressions_per_video": _spread(list(Counter(s.video.uid for s in samples).values())),
        "frames_per_video": _spread([video.num_frames for video in videos.values()]),
        "objects_per_expression": _counts(len(sample.targets) for sample in samples),
        "visible_share": _spread(visible),
        "area_share": _spread(np.concatenate(areas) if areas else []),
        "words_per_query": _spread([len(sample.query.split()) for sample in samples]),
        "kinds": dict(Counter(sample.kind or NO_KIND for sample in samples).most_common()),
        "frame_sizes": dict(
            Counter(f"{v.height} x {v.width}" for v in videos.values()).most_common()
        ),
    }


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures as lines of a table for people: (what, value); spreads as "mean (median; 5 % to 95 %)"."""
    lines = [(name, f"{found[name]:,}") for name in ("videos", "expressions", "frames", "objects")]
    for name in ("expressions_per_video", "frames_per_video", "words_per_query"):
        lines.append((name.replace("_", " "), _say(found[name], "{:.1f}", 1)))
    for name, what in (
        ("visible_share", "share of frames with the object, %"),
        ("area_share", "its area, % of frame"),
    ):
        lines.append((what, _say(found[name], "{:.1f}", 100)))
    for name in ("objects_per_expression", "kinds", "frame_sizes"):
        head = list(found[name].items())[:8]
        more = f", and {len(found[name]) - 8} more" if len(found[name]) > 8 else ""
        lines.append((name.replace("_", " "), ", ".join(f"{k}: {v:,}" for k, v in head) + more))
    return lines


def _counts(values: Any) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean, extremes and percentiles; empty for no values."""
    if not len(values):
        return {}
    array = np.asarray(values, dtype=np.float64)
    quantiles = dict(
        zip((f"p{p}" for p in PERCENTILES), np.percentile(array, PERCENTILES).tolist(), strict=True)
    )
    return {
        "mean": float(array.mean()),
        "min": float(array.min()),
        **quantiles,
        "max": float(array.max()),
    }


def _say(spread: Mapping[str, float], form: str, scale: float) -> str:
    if not spread:
        return "-"
    mean, low, median, high = (form.format(scale * spread[k]) for k in ("mean", "p5", "p50", "p95"))
    return f"{mean} ({median}; {low} to {high})"
