"""Published figures of other methods, each with its source, for the table of an evaluation.

Figures are percent, under the names of `core.evaluation.protocols`. A row belongs to a benchmark
and some of its splits. What a source leaves open, such as the split or the protocol, stands in the
row's note and goes with the figure into every table. A new row needs a source that states it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# This format is that of three benchmarks, each in a folder of its own name.
SEVERAL = "refcoco"

# Sources, under the short names of their papers.
RV = "ReVSeg, arXiv 2512.02835v1, result tables"
V1 = "VideoSeg-R1, AAAI-26, result tables"
O3 = "VideoSEG-O3, README of Dmmm1997/VideoSEG-O3, Main Results"
VE = "Veason-R1, README of SitongGong/Veason-R1, Results"
VH = "VRS-HQ, README of SitongGong/VRS-HQ, Performance"

NO_SPLIT = "the source does not say whether valid or valid_u"
NO_PROTOCOL = "the source does not say by which of the two protocols"
NO_IMAGES = "whether val or test is not in our notes of the paper"
BINARY = "by its released script"


@dataclass(frozen=True)
class Published:
    """The figures of one method on one benchmark.

    Attributes:
        method: Name and size of the model.
        benchmark: As `benchmark_of` names it.
        splits: The splits that the figures belong to; empty: any.
        figures: Percent, by name.
        source: Where they are stated.
        note: What the source leaves open.
    """

    method: str
    benchmark: str
    splits: tuple[str, ...]
    figures: Mapping[str, float]
    source: str
    note: str = ""


def j_f_jf(j: float, f: float, jf: float, prefix: str = "") -> dict[str, float]:
    """Return J, F and J&F under their names."""
    return {f"{prefix}J": j, f"{prefix}F": f, f"{prefix}J&F": jf}


def revos_jf(referring: float, reasoning: float, overall: float) -> dict[str, float]:
    """Return the three J&F of ReVOS under their names."""
    return {"referring/J&F": referring, "reasoning/J&F": reasoning, "J&F": overall}


def images(g_iou: float, c_iou: float) -> dict[str, float]:
    """Return gIoU and cIoU under their names."""
    return {"gIoU": g_iou, "cIoU": c_iou}


def c_iou(value: float) -> dict[str, float]:
    """Return the one figure of refCOCO under its name."""
    return {"cIoU": value}


def binary_jf(value: float) -> dict[str, float]:
    """Return a J&F of Ref-DAVIS17 measured expression by expression under its name."""
    return {"binary_per_expression/J&F": value}


BASE = "Qwen2.5-VL-7B"

OF_RV = (
    Published("ReVSeg-7B", "mevis", ("valid",), j_f_jf(56.1, 63.4, 59.8), RV),
    Published("ReVSeg-7B", "ref_youtube_vos", ("valid",), j_f_jf(71.1, 75.2, 73.1), RV),
    Published("ReVSeg-7B", "ref_davis17", ("valid",), j_f_jf(77.4, 84.1, 80.8), RV, NO_PROTOCOL),
    Published(
        "ReVSeg-7B",
        "revos",
        ("valid",),
        j_f_jf(63.3, 68.1, 65.7, "referring/")
        | j_f_jf(55.4, 61.8, 58.6, "reasoning/")
        | j_f_jf(59.3, 65.0, 62.1),
        RV,
    ),
    Published("ReVSeg-7B", "reasonvos", (), j_f_jf(61.8, 67.7, 64.8), RV),
    Published("ReVSeg-7B", "reasonseg", ("val",), images(63.7, 59.9), RV),
    Published("ReVSeg-7B", "reasonseg", ("test",), images(59.7, 47.4), RV),
    Published(BASE, "reasonseg", ("val",), images(59.5, 54.0), RV),
    Published(BASE, "reasonseg", ("test",), images(55.9, 44.3), RV),
)

OF_V1 = (
    Published("VideoSeg-R1-7B", "mevis", ("valid",), j_f_jf(52.7, 57.8, 55.3), V1),
    Published("VideoSeg-R1-3B", "mevis", ("valid",), {"J&F": 53.0}, V1),
    Published("VideoSeg-R1-7B", "ref_youtube_vos", ("valid",), j_f_jf(78.2, 84.4, 81.3), V1),
    Published("VideoSeg-R1-3B", "ref_youtube_vos", ("valid",), {"J&F": 75.9}, V1),
    Published(
        "VideoSeg-R1-7B",
        "ref_davis17",
        ("valid",),
        j_f_jf(77.4, 82.2, 79.8),
        V1,
        NO_PROTOCOL,
    ),
    Published("VideoSeg-R1-3B", "ref_davis17", ("valid",), {"J&F": 77.5}, V1, NO_PROTOCOL),
    Published("VideoSeg-R1-7B", "revos", ("valid",), j_f_jf(58.2, 64.0, 61.1), V1),
    Published("VideoSeg-R1-3B", "revos", ("valid",), {"J&F": 58.6}, V1),
    Published("VideoSeg-R1-7B", "reasonseg", (), images(69.8, 68.2), V1, NO_IMAGES),
    Published("VideoSeg-R1-3B", "reasonseg", (), images(65.1, 63.7), V1, NO_IMAGES),
    Published("VideoSeg-R1-7B", "refcoco", ("val",), c_iou(78.2), V1),
    Published("VideoSeg-R1-7B", "refcoco", ("testA",), c_iou(82.3), V1),
    Published("VideoSeg-R1-7B", "refcoco", ("testB",), c_iou(75.1), V1),
    Published("VideoSeg-R1-3B", "refcoco", ("val",), c_iou(75.1), V1),
    Published("VideoSeg-R1-3B", "refcoco", ("testA",), c_iou(79.2), V1),
    Published("VideoSeg-R1-3B", "refcoco", ("testB",), c_iou(72.8), V1),
    Published("VideoSeg-R1-7B", "refcoco+", ("val",), c_iou(71.8), V1),
    Published("VideoSeg-R1-7B", "refcoco+", ("testA",), c_iou(76.1), V1),
    Published("VideoSeg-R1-7B", "refcoco+", ("testB",), c_iou(64.7), V1),
    Published("VideoSeg-R1-3B", "refcoco+", ("val",), c_iou(67.2), V1),
    Published("VideoSeg-R1-3B", "refcoco+", ("testA",), c_iou(72.8), V1),
    Published("VideoSeg-R1-3B", "refcoco+", ("testB",), c_iou(59.9), V1),
    Published("VideoSeg-R1-7B", "refcocog", ("val",), c_iou(73.1), V1),
    Published("VideoSeg-R1-7B", "refcocog", ("test",), c_iou(74.1), V1),
    Published("VideoSeg-R1-3B", "refcocog", ("val",), c_iou(69.7), V1),
    Published("VideoSeg-R1-3B", "refcocog", ("test",), c_iou(71.0), V1),
)

OF_O3 = (
    Published("VideoSEG-O3-2B", "mevis", (), {"J&F": 55.6}, O3, NO_SPLIT),
    Published("VideoSEG-O3-4B", "mevis", (), {"J&F": 60.0}, O3, NO_SPLIT),
    Published("VideoSEG-O3-2B", "ref_youtube_vos", ("valid",), {"J&F": 70.5}, O3),
    Published("VideoSEG-O3-4B", "ref_youtube_vos", ("valid",), {"J&F": 74.1}, O3),
    Published("VideoSEG-O3-2B", "ref_davis17", ("valid",), binary_jf(80.0), O3, BINARY),
    Published("VideoSEG-O3-4B", "ref_davis17", ("valid",), binary_jf(79.4), O3, BINARY),
    Published("VideoSEG-O3-2B", "ref_sav", (), {"J&F": 62.9}, O3),
    Published("VideoSEG-O3-4B", "ref_sav", (), {"J&F": 65.5}, O3),
    Published("VideoSEG-O3-2B", "longrvos", (), {"J&F": 54.8}, O3),
    Published("VideoSEG-O3-4B", "longrvos", (), {"J&F": 57.4}, O3),
    Published("VideoSEG-O3-2B", "revos", ("valid",), revos_jf(67.5, 62.0, 64.8), O3),
    Published("VideoSEG-O3-4B", "revos", ("valid",), revos_jf(70.3, 65.1, 67.7), O3),
    Published("VideoSEG-O3-2B", "reasonvos", (), {"J&F": 60.2}, O3),
    Published("VideoSEG-O3-4B", "reasonvos", (), {"J&F": 62.9}, O3),
    Published("VideoSEG-O3-2B", "groundmore", (), {"J&F": 29.1}, O3),
    Published("VideoSEG-O3-4B", "groundmore", (), {"J&F": 31.9}, O3),
)

# Its rows of other methods, too. VISA's 44.5 is a figure of valid, so the others beside it are.
OF_VE = (
    Published("Veason-R1-7B", "revos", ("valid",), revos_jf(63.6, 59.0, 61.3), VE),
    Published("Veason-R1-3B", "revos", ("valid",), revos_jf(63.0, 56.8, 59.9), VE),
    Published("Veason-R1-7B", "reasonvos", (), j_f_jf(56.0, 63.8, 59.9), VE),
    Published("Veason-R1-3B", "reasonvos", (), j_f_jf(51.8, 58.5, 55.2), VE),
    Published("Veason-R1-7B", "mevis", ("valid",), j_f_jf(48.4, 56.0, 52.2), VE),
    Published("Veason-R1-3B", "mevis", ("valid",), j_f_jf(48.2, 54.2, 51.2), VE),
    Published("GLUS-7B", "revos", ("valid",), revos_jf(58.3, 51.4, 54.9), VE),
    Published("GLUS-7B", "reasonvos", (), j_f_jf(47.5, 52.4, 49.9), VE),
    Published("GLUS-7B", "mevis", ("valid",), j_f_jf(48.5, 54.2, 51.3), VE),
    Published("VRS-HQ-13B", "revos", ("valid",), revos_jf(63.3, 56.8, 60.0), VE),
    Published("VRS-HQ-13B", "mevis", ("valid",), j_f_jf(48.0, 53.7, 50.9), VE),
    Published("VISA-13B", "mevis", ("valid",), j_f_jf(41.8, 47.1, 44.5), VE),
)

OF_VH = (
    Published("VRS-HQ-7B", "revos", ("valid",), revos_jf(62.1, 56.1, 59.1), VH),
    Published("VISA-13B", "revos", ("valid",), revos_jf(57.4, 44.3, 50.9), VH),
)

PUBLISHED: tuple[Published, ...] = (
    *OF_RV,
    *OF_V1,
    *OF_O3,
    *OF_VE,
    *OF_VH,
)


def benchmark_of(format: str, root: str) -> str:
    """Return the name of a benchmark: its format, or the folder of a format for several."""
    if format == SEVERAL:
        return Path(root).name
    return format


def published_on(benchmark: str, split: str) -> list[Published]:
    """Return the published figures of one split of a benchmark.

    A partition before the split, as in "unc/val", does not matter.
    """
    split = split.rpartition("/")[2]
    found = []
    for row in PUBLISHED:
        if row.benchmark == benchmark and (not row.splits or split in row.splits):
            found.append(row)
    return found
