"""Convert a released VideoSEG-O3 checkpoint to a policy folder and a SAM 2 file.

    python -m ray_jobs.convert RELEASE OUTPUT
    python -m ray_jobs.evaluate videoseg_o3_4b policy.path=OUTPUT segmenter.path=OUTPUT/sam2.pt

RELEASE is the downloaded folder. It holds a Qwen3-VL policy, the layers behind [SEG] and SAM 2.0 in
one; OUTPUT holds the policy with its mask head, and SAM 2 as a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.policy.sa2va import SAM_FILE, convert
from ray_jobs.driver.entry import run_job

USAGE = "usage: python -m ray_jobs.convert RELEASE OUTPUT"


def main(argv: Sequence[str]) -> None:
    """Convert one release.

    Raises:
        ValueError: other arguments than two folders, or as `convert`.
    """
    if "-h" in argv or "--help" in argv:
        print(__doc__)
        return
    if len(argv) != 2:
        raise ValueError(f"{len(argv)} arguments given; {USAGE}")
    out = Path(argv[1])
    convert(Path(argv[0]), out)
    print(f"policy.path={out} segmenter.path={out / SAM_FILE}")


if __name__ == "__main__":
    run_job(main)
