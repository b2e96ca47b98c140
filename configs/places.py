"""Where the files of a job are, if not in the checkout: a shared folder, or a hub's cache."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

# Environment variable with the folder of models, data and runs of a job in an uploaded copy.
FILES = "RAYVOS_FILES"
# Folders that are never uploaded (.rayignore).
KEPT = ("checkpoints/", "datasets/", "runs/")


def lead_to_files(cfg: Any) -> None:
    """Let relative paths begin at the folder RAYVOS_FILES, if it is set.

    `ray job submit --working-dir .` plays in a copy of the checkout, without models and data, and
    what is written there vanishes with it.

    Raises:
        ValueError: The folder is no absolute path.
    """
    given = os.environ.get(FILES, "")
    if not given:
        return
    files = Path(given)
    if not files.is_absolute():
        raise ValueError(f"{FILES}={given}: give an absolute path that all nodes see")
    _lead(cfg, files)
    # Any other name of this folder is relative, too.
    cfg.runs = str(files / cfg.runs)
    kind, is_file, database = cfg.tracking.mlflow_uri.partition("sqlite:///")
    if is_file:
        cfg.tracking.mlflow_uri = f"{kind}{is_file}{files / database}"


def _lead(tree: Any, files: Path) -> None:
    for each in fields(tree):
        value = getattr(tree, each.name)
        if is_dataclass(value):
            _lead(value, files)
        elif isinstance(value, list):
            for item in value:
                if is_dataclass(item):
                    _lead(item, files)
        elif isinstance(value, str) and value.startswith(KEPT):
            setattr(tree, each.name, str(files / value))


def cached_model(name: str) -> Path | None:
    """Return the folder of a model by its name on a hub, if this machine's cache has it.

    Nothing is downloaded.
    """
    # It takes a moment to import, and most policies are folders.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    cache = constants.HF_HUB_CACHE
    try:
        return Path(snapshot_download(name, cache_dir=cache, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
