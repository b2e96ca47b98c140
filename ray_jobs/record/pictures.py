"""Pictures of a run for its replay page, named by their content: one file for equal pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from core.files import replacing

# Quality of JPEG at which edges of small objects stay sharp.
QUALITY = 88


@dataclass
class Pictures:
    """A folder of JPEG files of a bounded size.

    Attributes:
        folder: Its place.
        limit: Most bytes of all files together.
        used: Bytes of the files so far.
    """

    folder: Path
    limit: int
    used: int = 0
    _names: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, folder: Path, limit: int) -> Pictures:
        """Continue a folder, or begin one that is made for its first picture."""
        pictures = cls(folder, limit)
        for file in folder.glob("*.jpg"):
            pictures.used += file.stat().st_size
            pictures._names.add(file.stem)
        return pictures

    def add(self, name: str, image_HWC: np.ndarray, share: float = 1.0) -> bool:
        """Keep a uint8 RGB image; return whether it is there.

        Args:
            name: Its digest.
            share: The part of the limit that may be used up by now, so that the first steps of a
                run leave room for its last ones.
        """
        if name in self._names:
            return True
        encoded = jpeg(image_HWC)
        if self.used + len(encoded) > share * self.limit:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"{name}.jpg") as fresh:
            fresh.write_bytes(encoded)
        self.used += len(encoded)
        self._names.add(name)
        return True


def jpeg(image_HWC: np.ndarray) -> bytes:
    """Return a uint8 RGB image as JPEG."""
    bgr_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done, "a uint8 image of three channels is always encoded"
    return bytes(data)
