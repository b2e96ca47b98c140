"""Search traces over synthetic videos, in the format and the folders of VTS-CoT, so that its reader reads them.

    <root>/VTS-CoT/mevis.json                      one dialogue an expression that has a target (see `data.readers.cot`)
    <root>/video_datas/mevis/train/...             its videos and masks (see `tiny.world.write`)

    python -m tiny.world.traces datasets/synthetic_traces --videos 900

Where the real traces are what a large model wrote, these follow from the true masks (`systems.videoseg_o3.traces`): from a wide part
of the video to the part that shows the target. Knows no system and no model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.geometry import uniform_frames
from core.masks import boxes_areas
from core.types import Sample
from data.readers.mevis import read
from systems.videoseg_o3.traces import Look, plan_search, write_search
from tiny.world.write import write_split

SOURCE = "mevis"  # of VTS-CoT; the one whose layout the synthetic data set has
SPATIAL = 5  # frames of an item's "sample_frame_indice"


def write_traces(
    root: Path,
    seed: int = 0,
    num_videos: int = 900,
    expressions_per_video: int = 3,
    most_turns: int = 3,
) -> int:
    """Makes videos and dialogues under `root`; returns how many dialogues. Equal arguments make equal bytes.

    A dialogue has 1 to `most_turns` turns, evenly; expressions without a target have none.

    Raises:
        ValueError: the videos are there already.
    """
    base = Path(root) / "video_datas" / SOURCE
    write_split(base, "train", seed, num_videos, expressions_per_video)
    meta = json.loads((base / "train" / "meta_expressions.json").read_text())["videos"]
    items = []
    for number, sample in enumerate(read(base, "train")):
        if sample.targets:
            rng = np.random.default_rng([seed, number])
            expression = meta[sample.video.uid]["expressions"][sample.uid.rpartition("/")[2]]
            items.append(
                trace(sample, expression["anno_id"], int(rng.integers(1, most_turns + 1)), rng)
            )
    file = Path(root) / "VTS-CoT" / f"{SOURCE}.json"
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(items, indent=1))
    partial.replace(file)
    return len(items)


def trace(
    sample: Sample, anno_ids: Sequence[int], turns: int, rng: np.random.Generator
) -> dict[str, Any]:
    """One item: a search of `turns` turns for the sample's targets, which at least one frame must show."""
    looks = plan_search(boxes_areas(sample)[1], turns, rng)
    texts = write_search(looks, sample.notes.description, sample.notes.thought)
    return {
        "video_name": sample.video.uid,
        "frames": list(sample.video.frame_names),
        "exp": sample.query,
        "anno_id": list(anno_ids),
        "sample_frame_indice": uniform_frames(sample.video.num_frames, SPATIAL),
        "round_num": turns - 1,
        "cot_trace": [_traced(look) for look in looks[:-1]],
        "conversations": _conversation(sample.query, texts),
    }


def _traced(look: Look) -> dict[str, int]:
    """As the dialogue says it: the end inside."""
    return {"start_frame": look.start, "end_frame": look.stop - 1, "key_frame": look.keyframe}


def _conversation(query: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """The first human turn asks, every later one stands for frames."""
    said = [
        {
            "from": "system",
            "value": "You find objects in videos and look again where you are not sure.",
        }
    ]
    for i, text in enumerate(texts):
        said.append({"from": "human", "value": "<image>" if i else f"<image>\nFind {query}."})
        said.append({"from": "gpt", "value": text})
    return said


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes synthetic videos and search traces over them."
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--videos", type=int, default=900)
    parser.add_argument("--expressions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(
        f"{write_traces(given.root, given.seed, given.videos, given.expressions)} dialogues in {given.root}"
    )


if __name__ == "__main__":
    main()
