"""Dialogues are those of the official chat templates, token by token, for every system's prompts.

The official templates and vocabularies lie in ../shared (or in the folder of the environment
variable RAYVOS_SHARED); without them a shipped tokenizer is tried with templates of this file that
say the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import systems
from core.types import View
from models.dialogue import Dialogue
from models.families import FAMILIES
from tests.systems import o3_script, r1_script, revseg_script
from tests.systems.veason_r1 import test_veason_r1 as veason_script

ROOT = Path(__file__).parents[2]
SAMPLES = {
    "revseg": revseg_script.sample(),
    "videoseg_r1": r1_script.sample(),
    "videoseg_o3": o3_script.sample(),
    "veason_r1": veason_script.sample(),
}
MESSAGES = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' and default %}"
    "<|im_start|>system\n{{ default }}<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for piece in message.content %}"
    "{% if piece.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ piece.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def official(family: str, folder: Path) -> tuple[Any, str]:
    """The official tokenizer and template of a family; skips where they are not at hand."""
    shared = Path(os.environ.get("RAYVOS_SHARED", ROOT.parent / "shared")) / "real_shapes"
    if not (shared / family).is_dir():
        pytest.skip(f"no {shared / family}")
    for file in (shared / "vocab.json", shared / "merges.txt", *(shared / family).iterdir()):
        shutil.copy(file, folder)
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    return AutoTokenizer.from_pretrained(folder), template


def shipped(family: str) -> tuple[Any, str]:
    """A tokenizer of this project, and a template with the family's default system message."""
    default = FAMILIES[family].chat.system
    template = f"{{% set default = {default!r} %}}{MESSAGES}"
    return AutoTokenizer.from_pretrained(ROOT / "tiny/weights/revseg"), template


def message(content: Sequence[str | View]) -> dict[str, Any]:
    pieces: list[dict[str, str]] = []
    for piece in content:
        pieces.append({"type": "image"} if isinstance(piece, View) else of_text(piece))
    return {"role": "user", "content": pieces}


def of_text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def check(name: str, options: dict[str, Any], tokenizer: Any, template: str, family: str) -> None:
    """Compare the ideal dialogue of a system, after its first and after its last question."""
    made = FAMILIES[family]()
    system = systems.make(name, options, made.vision)
    turns = system.demonstrate(SAMPLES[name], np.random.default_rng(3))
    opening = system.system_message or made.chat.system
    dialogue = Dialogue(tokenizer, made, opening)

    messages: list[dict[str, Any]] = []
    if system.system_message:
        messages.append({"role": "system", "content": system.system_message})
    ids: list[int] = []
    for number, (content, answer) in enumerate(turns):
        ids += dialogue.user(content, first=number == 0, expanded=False)
        messages.append(message(content))
        rendered = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        assert ids == tokenizer(rendered, add_special_tokens=False)["input_ids"], (name, number)
        ids += dialogue.completion(answer)
        messages.append({"role": "assistant", "content": answer})


CASES = [
    ("revseg", {}),
    ("revseg", {"decompose": False}),
    ("videoseg_r1", {"sampler": "first"}),
    ("videoseg_o3", {}),
    ("videoseg_o3", {"instruct": "system"}),
    ("veason_r1", {}),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_prompts_are_those_of_the_official_template(
    name: str, options: dict[str, Any], family: str, tmp_path: Path
) -> None:
    tokenizer, template = official(family, tmp_path)
    check(name, options, tokenizer, template, family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_prompts_are_those_of_a_template_with_a_default_message(
    name: str, options: dict[str, Any], family: str
) -> None:
    tokenizer, template = shipped(family)
    check(name, options, tokenizer, template, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_message_is_that_of_the_official_template(family: str, tmp_path: Path) -> None:
    tokenizer, template = official(family, tmp_path)
    rendered = tokenizer.apply_chat_template(
        [message(["Hi"])], chat_template=template, tokenize=False
    )
    default = FAMILIES[family].chat.system
    assert ("<|im_start|>system" in rendered) == bool(default)
    assert default in rendered
