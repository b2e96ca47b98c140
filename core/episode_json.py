"""Whole episodes as JSON, for the log of a run's groups (`ray_jobs.record.group_log`).

Whoever plays a group makes it: a group has tens of thousands of numbers, and the driver has the
groups of all engines to write.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from core.types import Episode


def episodes_json(episodes: Sequence[Episode]) -> bytes:
    """Return episodes as JSON, token ids and log-probs exactly as they are."""
    try:
        _check_finite(episodes)
        # Many times faster.
        return msgspec.json.encode(episodes, enc_hook=_plain)
    except (ValueError, OverflowError):
        # The json module alone keeps nan, infinity, lone surrogates and huge integers as they are.
        return json.dumps(msgspec.to_builtins(episodes, enc_hook=_plain)).encode()


def _check_finite(episodes: Sequence[Episode]) -> None:
    """Raise ValueError if a number is infinite or nan, which msgspec would write as null."""
    for episode in episodes:
        json.dumps(msgspec.to_builtins(episode.answer, enc_hook=_plain), allow_nan=False)
        for turn in episode.turns:
            if not math.isfinite(sum(turn.logprobs)):
                raise ValueError("a log-prob is not finite")


def _plain(value: Any) -> Any:
    """Return numbers of numpy, or many at once, as numbers of Python."""
    return value.tolist()
