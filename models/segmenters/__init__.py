"""Segmenters: from mask prompts to masks, tracked through a video.

`core.segmenters.KINDS` lists them. The module of a kind is imported on first use, because each has
its own dependencies.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from core.segmenters import KINDS
from models.segmenters.base import Segmenter


def make(kind: str, settings: Mapping[str, Any], device: str = "cpu") -> Segmenter:
    """Load a segmenter.

    Args:
        kind: a name of `core.segmenters.KINDS`.
        settings: settings of `configs.schema.SegmenterConfig` by name; those of other kinds are
            ignored.
        device: cpu or cuda.

    Raises:
        ValueError: an unknown kind, a missing file, or a checkpoint of another architecture.
    """
    if kind not in KINDS:
        raise ValueError(f"segmenter.kind: {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    module = importlib.import_module(f"models.segmenters.{kind}")
    names = (*KINDS[kind].files, *KINDS[kind].settings)
    own = {name: settings[name] for name in names if name in settings}
    segmenter: Segmenter = module.load(device=device, **own)
    return segmenter
