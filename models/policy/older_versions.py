"""Exported policies for transformers 4.57 as well.

Transformers 5 renamed settings that 4.57 reads under their old names: without `rope_scaling` the
older version computes other positions, and it refuses a list of `extra_special_tokens`. Version 5
reads both names; the official folders have the old ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Where the language model keeps its own settings; Qwen2.5-VL of 4.57 reads them there too.
TEXT = "text_config"


def add_old_names(folder: Path) -> None:
    """Write the old names beside the new ones into the files of a saved policy."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    text = config.get(TEXT, config)
    rope = text.get("rope_parameters")
    if rope is not None:
        text["rope_theta"] = rope["rope_theta"]
        text["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
        write(file, config)

    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return
    tokenizer = json.loads(file.read_text())
    extra = tokenizer.get("extra_special_tokens")
    if isinstance(extra, list):
        tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens")
        write(file, tokenizer)


def write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
