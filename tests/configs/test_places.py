"""Paths of a job in an uploaded copy, and names on a hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from configs.load import load, missing_paths
from configs.places import FILES


def test_relative_paths_of_a_preset_begin_at_the_shared_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(["revseg_7b"])
    monkeypatch.setenv(FILES, str(tmp_path))
    cfg = load(["revseg_7b"])
    for path, own in (
        (cfg.policy.path, before.policy.path),
        (cfg.segmenter.path, before.segmenter.path),
        (cfg.data.root, before.data.root),
        (cfg.runs, before.runs),
    ):
        assert path == str(tmp_path / own)
    assert cfg.tracking.mlflow_uri == f"sqlite:///{tmp_path}/mlflow.db"
    # What is uploaded with the code stays there.
    assert load(["revseg_tiny"]).policy.path == "tiny/weights/revseg"
    cfg = load(
        [
            "revseg_7b",
            "runs=/elsewhere",
            "data.sets=[{format: mevis, root: datasets/a, split: train}]",
        ]
    )
    assert cfg.runs == "/elsewhere"
    assert cfg.data.sets[0].root == f"{tmp_path}/datasets/a"
    monkeypatch.setenv(FILES, "shared")
    with pytest.raises(ValueError, match="RAYVOS_FILES=shared: give an absolute path"):
        load(["revseg_7b"])


def test_a_name_on_a_hub_is_the_folder_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "models--Owner--Policy"
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("Owner/Policy", "hf://Owner/Policy"):
        cfg = load(["revseg_tiny", f"policy.path={name}"])
        assert cfg.policy.path == str(snapshot)
    cfg = load(["revseg_tiny", "policy.path=Owner/Another"])
    [problem] = [text for text in missing_paths(cfg) if text.startswith("policy.path")]
    assert "hf download Owner/Another" in problem
