"""The two readings of VideoSEG-O3's reward formulas (docs/spec/videoseg_o3.md, Rewards)."""

from __future__ import annotations

from typing import Literal

# "as_released": the formulas of the released code, defects included.
# "as_intended": those of its names and docstrings.
RewardMode = Literal["as_released", "as_intended"]
