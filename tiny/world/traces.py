"""Search traces over synthetic videos, in the format and folders of VTS-CoT.

    <root>/VTS-CoT/mevis.json             one dialogue an expression with a target; the format of
                                          `data.readers.vts_cot_and_o3_rl`
    <root>/video_datas/mevis/train/...    its videos and masks (`tiny.world.write`)

    python -m tiny.world.traces datasets/synthetic_traces --videos 900

A large model wrote the real traces. These follow from the true masks
(`systems.videoseg_o3.traces`), from a wide part of the video to the part with the target.
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
from data.readers.mevis import read_mevis
from systems.videoseg_o3.traces import plan_search, write_search
from tiny.world.write import write_split

# The data set of VTS-CoT with the layout of the synthetic one.
SOURCE = "mevis"
# Frames of an item's "sample_frame_indice".
SPATIAL_FRAMES = 5
SYSTEM_MESSAGE = "You find objects in videos and look again where you are not sure."


def write_traces(
    root: Path,
    seed: int = 0,
    num_videos: int = 900,
    expressions_per_video: int = 3,
    most_turns: int = 3,
) -> int:
    """Make videos and dialogues below `root`. Equal arguments make equal bytes.

    A dialogue has 1 to `most_turns` turns, each number equally likely. Expressions without a
    target have no dialogue.

    Returns:
        The number of dialogues.

    Raises:
        ValueError: The videos exist already.
    """
    base = Path(root) / "video_datas" / SOURCE
    write_split(base, "train", seed, num_videos, expressions_per_video)
    meta = json.loads((base / "train" / "meta_expressions.json").read_text())["videos"]

    items = []
    for number, sample in enumerate(read_mevis(base, "train")):
        if sample.targets:
            rng = np.random.default_rng([seed, number])
            turns = int(rng.integers(1, most_turns + 1))
            expression_id = sample.uid.rpartition("/")[2]
            expression = meta[sample.video.uid]["expressions"][expression_id]
            items.append(trace(sample, expression["anno_id"], turns, rng))

    file = Path(root) / "VTS-CoT" / f"{SOURCE}.json"
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(items, indent=1))
    partial.replace(file)
    return len(items)


def trace(
    sample: Sample, anno_ids: Sequence[int], turns: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return one item: a search of `turns` turns. At least one frame must show a target."""
    areas_F = boxes_areas(sample)[1]
    looks = plan_search(areas_F, turns, rng)
    texts = write_search(looks, sample.notes.description, sample.notes.thought)

    # All looks but the last, with the end inside, as in the dialogue.
    cot_trace = []
    for look in looks[:-1]:
        cot_trace.append(
            {"start_frame": look.start, "end_frame": look.stop - 1, "key_frame": look.keyframe}
        )
    return {
        "video_name": sample.video.uid,
        "frames": list(sample.video.frame_names),
        "exp": sample.query,
        "anno_id": list(anno_ids),
        "sample_frame_indice": uniform_frames(sample.video.num_frames, SPATIAL_FRAMES),
        "round_num": turns - 1,
        "cot_trace": cot_trace,
        "conversations": _conversation(sample.query, texts),
    }


def _conversation(query: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """Return the messages: the first human turn asks, every later one only shows frames."""
    messages = [{"from": "system", "value": SYSTEM_MESSAGE}]
    question = f"<image>\nFind {query}."
    for text in texts:
        messages.append({"from": "human", "value": question})
        messages.append({"from": "gpt", "value": text})
        question = "<image>"
    return messages


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write synthetic videos and search traces over them."
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--videos", type=int, default=900)
    parser.add_argument("--expressions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    count = write_traces(options.root, options.seed, options.videos, options.expressions)
    print(f"{count} dialogues in {options.root}")


if __name__ == "__main__":
    main()
