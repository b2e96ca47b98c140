"""The kinds of segmenters: facts that settings are checked against before one is loaded.

The code of a kind is the module of its name in `models/segmenters/`. To add a kind, write that
module, add a row here and the name to `configs.schema.SegmenterConfig.kind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SegmenterKind:
    """Facts about one kind of segmenter.

    Attributes:
        files: settings (`segmenter.<name>`) that name a file or folder, and what to give there.
        settings: the kind's other settings.
        follows_drawn: whether it tracks a mask drawn by the policy.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    follows_drawn: bool = False

    @property
    def needs_weights(self) -> bool:
        """Whether it reads the weights at `segmenter.path`."""
        return "path" in self.files


SAM2_FILES = {"path": "an official SAM 2 checkpoint (2.0 or 2.1, any size) or a saved folder"}
SAM2_SETTINGS = ("config", "multimask")
XMEM_FILES = {
    "xmem_path": "a checkout of hkchengrex/XMem, and its XMem.pth",
    "xmem_weights": "a checkout of hkchengrex/XMem, and its XMem.pth",
}

KINDS: dict[str, SegmenterKind] = {
    "sam2": SegmenterKind(SAM2_FILES, settings=SAM2_SETTINGS, follows_drawn=True),
    "sam2_xmem": SegmenterKind(SAM2_FILES | XMEM_FILES, settings=(*SAM2_SETTINGS, "xmem_size")),
    "grabcut": SegmenterKind(),
}


def kinds_that_follow_drawn() -> list[str]:
    """Return the kinds that track a mask drawn by the policy."""
    return [name for name, kind in KINDS.items() if kind.follows_drawn]
