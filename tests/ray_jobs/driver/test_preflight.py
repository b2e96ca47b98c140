"""Prompts are counted by engine and learner before a start, with official processor files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.setup import make_system
from configs.load import REPOSITORY, load
from core.types import Sample, Video, View
from models.dialogue import load_dialogue
from models.engine.counting import EngineCounter
from models.families import family_of
from ray_jobs.driver.preflight import CountedPrompts, check_prompts

# As in preprocessor_config.json of the released folders.
OFFICIAL: dict[str, dict[str, Any]] = {
    "revseg": {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "image_processor_type": "Qwen2VLImageProcessor",
    },
    "videoseg_o3": {
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
        "image_processor_type": "Qwen2VLImageProcessorFast",
    },
}
PATCH = {"revseg": 14, "videoseg_o3": 16}
NAMES = tuple(f"{i:05d}" for i in range(40))
SAMPLE = Sample("v/0", Video("v", "no/frames", NAMES, 480, 854), "the one that wins", ())


def official(folder: Path, name: str, **changes: Any) -> Path:
    """A shipped policy with an image processor as released."""
    shutil.copytree(REPOSITORY / "tiny/weights" / name, folder)
    file = folder / "processor_config.json"
    parts = json.loads(file.read_text())
    patches = {"patch_size": PATCH[name], "temporal_patch_size": 2, "merge_size": 2}
    parts["image_processor"] = OFFICIAL[name] | patches | changes
    file.write_text(json.dumps(parts))
    return folder


def counted(preset: str, folder: Path, *settings: str) -> CountedPrompts:
    cfg = load([preset, f"policy.path={folder}", *settings])
    return check_prompts(cfg, make_system(cfg), [[SAMPLE]])


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_image_of_one_token_stays_one(tmp_path: Path, name: str) -> None:
    """The official least is 4 tokens of Qwen2.5-VL, and 64 of Qwen3-VL."""
    folder = official(tmp_path / "policy", name)
    counter = EngineCounter(folder, load_dialogue(folder))
    cell = family_of(folder).vision.cell

    assert counter.tokens_of_size(cell, cell) == 1
    assert counter.tokens_of_size(3 * cell, 6 * cell) == 18


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_engines_prompt_is_the_dialogue(tmp_path: Path, name: str) -> None:
    folder = official(tmp_path / "policy", name)
    dialogue = load_dialogue(folder, "Be kind.")
    cell = dialogue.cell
    content: list[str | View] = ["first", View(0, cell, 2 * cell), "then", View(1, cell, cell)]

    counter = EngineCounter(folder, dialogue)
    for first in (True, False):
        learner = dialogue.user(content, first=first, expanded=True)
        assert counter.prompt(content, first=first) == len(learner)


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("revseg_7b", "revseg"),
        ("veason_r1_7b", "revseg"),
        ("videoseg_r1_3b", "revseg"),
        ("videoseg_r1_7b", "revseg"),
        ("videoseg_o3_2b", "videoseg_o3"),
        ("videoseg_o3_4b", "videoseg_o3"),
        ("revseg_7b", "videoseg_o3"),
    ],
)
def test_full_size_presets_with_official_processors(tmp_path: Path, preset: str, name: str) -> None:
    found = counted(preset, official(tmp_path / "policy", name))
    assert found.prompts >= 1
    assert found.longest.images >= 6
    assert found.longest.visual > 500
    assert f"{found.longest.prompt} tokens" in str(found)


def test_a_processor_of_another_model_is_named_with_both_counts(tmp_path: Path) -> None:
    folder = official(tmp_path / "policy", "videoseg_o3", patch_size=14)
    with pytest.raises(ValueError) as caught:
        counted("videoseg_o3_4b", folder)
    message = str(caught.value)
    assert "sample 'v/0'" in message
    assert "96 x 192 pixels: 21 against 18 tokens" in message
    assert "patch_size 14" in message
    assert "config.json 32 pixels a token" in message
    assert "copy preprocessor_config.json" in message
    assert len(message.splitlines()) == 1


def test_a_size_beyond_the_family_is_refused(tmp_path: Path) -> None:
    folder = official(tmp_path / "policy", "revseg")
    sizes = ("system.options.frame_height=5600", "system.options.frame_width=5600")
    with pytest.raises(ValueError, match="5600 x 5600 = 31360000 pixels.*784 to 12845056"):
        counted("revseg_7b", folder, *sizes)


def shapes(family: str) -> Path:
    """The released configuration files, if this machine has them."""
    shared = Path(os.environ.get("RAYVOS_SHARED", REPOSITORY.parent / "shared"))
    folder = shared / "real_shapes" / family
    if not folder.is_dir():
        pytest.skip(f"no {folder}; RAYVOS_SHARED names the folder of real_shapes")
    return folder


@pytest.mark.parametrize(
    ("preset", "family", "cell"),
    [("revseg_7b", "qwen2_5_vl", 28), ("videoseg_o3_4b", "qwen3_vl", 32)],
)
def test_released_files(tmp_path: Path, preset: str, family: str, cell: int) -> None:
    folder = shapes(family)
    for file in (*folder.iterdir(), folder.parent / "vocab.json", folder.parent / "merges.txt"):
        shutil.copy(file, tmp_path)
    found = counted(preset, tmp_path)
    assert family_of(tmp_path).vision.cell == cell
    assert found.longest.text > 100
