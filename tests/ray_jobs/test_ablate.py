"""The table of ablations, and the job around it with instant runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import systems
from configs.load import load, presets, to_yaml
from configs.schema import Config, SystemConfig
from ray_jobs import ablate as job
from ray_jobs.ablate import ablate, evaluated, main, plan, trained
from ray_jobs.driver.ablations import (
    ABLATIONS,
    MEASURES,
    NOT_READ,
    SHORT,
    Ablation,
    Variant,
    markdown,
    spread,
    verdict,
)

TWO = Ablation(
    "revseg_tiny",
    "a paper: J&F",
    (
        Variant("soft", ("system.options.temporal_reward=soft",), "60"),
        Variant("none", ("system.options.temporal_reward=none",), "55", {"J&F": -1, "tokens": 1}),
    ),
)


def configs(name: str) -> list[Config]:
    ablation = ABLATIONS[name]
    preset = ablation.preset
    if preset not in presets():
        preset = preset.replace("_tiny", "_7b")
    found = []
    for variant in ablation.variants:
        found.append(load([preset, *ablation.settings, *variant.settings]))
    return found


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_is_a_setting_that_its_system_has_and_differs_from_the_others(
    name: str,
) -> None:
    found = configs(name)
    distinct = set()
    for cfg in found:
        # The system's options hold defaults as well, so they are compared instead of the settings.
        system = systems.make(cfg.system.name, cfg.system.options)
        options = system.options  # type: ignore[attr-defined]
        distinct.add((repr(options), repr(replace(cfg, system=SystemConfig()))))
    assert len(found) > 1
    assert len(distinct) == len(found)
    first, *others = ABLATIONS[name].variants
    assert not first.signs
    assert first.published not in ("", NOT_READ)
    for variant in others:
        assert variant.published
        assert bool(variant.signs) == (variant.published != NOT_READ)
        assert set(variant.signs) <= set(MEASURES)


def test_calibration_is_on_at_the_released_weight_or_off() -> None:
    assert [cfg.mask.calibration for cfg in configs("calibration")] == [1.0, 0.0]


def test_turns_are_compared_on_long_clips_that_have_a_folder_of_their_own() -> None:
    found = configs("turns")
    assert [cfg.system.options["max_turns"] for cfg in found] == [3, 1]
    (data,) = {repr(cfg.data): cfg.data for cfg in found}.values()
    assert data.synthetic
    assert data.length == "long"
    usual = load([ABLATIONS["turns"].preset]).data
    assert data.root != usual.root
    assert usual.length == "short"


def test_the_table_has_means_spreads_and_the_published_sign() -> None:
    outcomes = {
        "soft": {0: {"J&F": 60.0, "tokens": 50.0}, 1: {"J&F": 62.0, "tokens": 52.0}},
        "none": {0: {"J&F": 50.0, "tokens": 49.0}, 1: {"J&F": 51.0, "tokens": 53.5}},
    }
    lines = markdown("trial", TWO, outcomes).splitlines()
    assert lines[0] == "# trial: `revseg_tiny`"
    assert lines[2] == "| variant | settings | published | seeds | J&F | tokens |"
    assert lines[4] == (
        "| soft | `system.options.temporal_reward=soft` | 60 | 2 | 61.0 ± 1.4 | 51.0 ± 1.4 |"
    )
    assert lines[5] == (
        "| none | `system.options.temporal_reward=none` | 55 | 2 "
        "| 50.5 ± 0.7 (-10.5, sign as published) | 51.2 ± 3.2 (+0.2, within the spread) |"
    )
    assert lines[-1] == "Published: a paper: J&F."


def test_a_table_that_is_not_finished_says_so_and_compares_common_seeds_only() -> None:
    soft = {0: {"J&F": 60.0}}
    part = markdown("trial", TWO, {"soft": soft})
    assert "| none | `system.options.temporal_reward=none` | 55 | 0 | not run |" in part
    none = {0: {"J&F": 50.0}, 1: {"J&F": 90.0}}
    part = markdown("trial", TWO, {"soft": soft, "none": none})
    assert "70.0 ± 28.3 (-10.0, one seed: no spread)" in part


def test_verdicts() -> None:
    assert verdict([-3.0, -2.0, -4.0], -1) == "sign as published"
    assert verdict([3.0, 2.0, 4.0], -1) == "sign NOT as published"
    assert verdict([-3.0, 2.0, -1.0], -1) == "within the spread" == verdict([0.0, 0.0], -1)
    assert verdict([-9.0], -1) == "one seed: no spread"
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    assert spread([1.0]) != spread([1.0])


def test_runs_are_named_by_variant_and_seed_and_share_an_experiment() -> None:
    runs = plan("trial", TWO, [0, 7], ["train.steps=2"])
    assert list(runs) == [("soft", 0), ("none", 0), ("soft", 7), ("none", 7)]
    assert runs["none", 7] == [
        "revseg_tiny",
        "train.steps=2",
        "system.options.temporal_reward=none",
        "name=none_seed7",
        "seed=7",
        "tracking.experiment=ablate_trial",
    ]


class Runs:
    """In place of a training process: writes the files of a finished run."""

    def __init__(self, fail_at: int = 99) -> None:
        self.started = list[str]()
        self.fail_at = fail_at

    def __call__(self, job: str, arguments: Sequence[str]) -> int:
        assert job == "train"
        cfg = load(arguments)
        self.started.append(cfg.name)
        if len(self.started) == self.fail_at:
            return 1
        folder = Path(cfg.runs) / cfg.name
        folder.mkdir(parents=True)
        jf = 60.0 if cfg.system.options["temporal_reward"] == "soft" else 50.0
        summary = {
            "steps": cfg.train.steps,
            "jf_after": jf + cfg.seed,
            "jf_before": 40.0,
            "sampled_jf_after": 45.0,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        two = [{"tokens": 91}, {"tokens": 1}]
        one = [{"tokens": 100}]
        lines: list[dict[str, Any]] = [
            {"step": 1, "turns": two, "facts": {}, "parts": {"tiou": 0.0}},
            {"step": 90, "turns": two, "facts": {}, "parts": {"tiou": 0.0}},
            {"step": 91, "turns": two, "facts": {}, "parts": {"tiou": 0.5}},
            # A failed episode has no parts.
            {"step": 100, "turns": one, "facts": {}, "parts": None},
        ]
        (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return 0


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    extra = [f"runs={tmp_path}", "train.steps=100", "tracking.mlflow_uri="]
    broken = Runs(fail_at=3)
    with pytest.raises(RuntimeError, match="soft_seed1: ended with exit code 1.*start again"):
        ablate("trial", TWO, [0, 1], extra, broken)
    assert broken.started == ["soft_seed0", "none_seed0", "soft_seed1"]
    again = Runs()
    table = ablate("trial", TWO, [0, 1], extra, again)
    assert again.started == ["soft_seed1", "none_seed1"]
    assert table == tmp_path / "ablate_trial" / "table.md"
    assert "| 50.5 ± 0.7 (-10.0, sign as published) |" in table.read_text()
    found = trained(tmp_path / "ablate_trial" / "none_seed1", 100)
    tokens = (91 + 1 + 100) / 2
    assert found == {
        "J&F": 51.0,
        "sampled J&F": 45.0,
        "gain": 11.0,
        "tIoU": 50.0,
        "turns": 1.5,
        "tokens": tokens,
    }
    # Not finished, if longer runs are asked for.
    assert trained(tmp_path / "ablate_trial" / "none_seed1", 200) is None


def test_an_ablation_of_use_evaluates_and_goes_on_where_a_prediction_is_missing(
    tmp_path: Path,
) -> None:
    sampler = ABLATIONS["sampler"]
    started = list[tuple[str, str]]()

    def start(job: str, arguments: Sequence[str]) -> int:
        cfg = load(arguments)
        started.append((job, cfg.system.options["sampler"]))
        folder = Path(cfg.runs) / cfg.name / "evaluate"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(cfg))
        (folder / "summary.json").write_text(
            json.dumps({"J&F": 50.0 + 10 * (cfg.system.options["sampler"] == "full")})
        )
        return 0

    extra = [f"runs={tmp_path}", "tracking.mlflow_uri="]
    table = ablate("sampler", sampler, [3], extra, start).read_text()
    assert started == [("evaluate", mode) for mode in ("full", "direct", "random", "first")]
    assert table.startswith("# sampler: `evaluate videoseg_r1_tiny`\n")
    assert "| 50.0 (-10.0, one seed: no spread) |" in table
    folder = tmp_path / "ablate_sampler" / "first_frame_seed3"
    cfg = load([str(folder / "evaluate" / "config.yaml")])
    assert evaluated(folder, cfg) == {"J&F": 50.0}
    ablate("sampler", sampler, [3], extra, start)
    assert len(started) == 4, "finished before"
    ablate("sampler", sampler, [3], [*extra, "policy.path=tiny/weights/revseg"], start)
    assert len(started) == 8, "of another policy, and no result of this one"
    (folder / "evaluate" / "summary.json").write_text('{"J&F": 50.0, "missing": ["a/0"]}')
    cfg = load([str(folder / "evaluate" / "config.yaml")])
    assert evaluated(folder, cfg) is None
    assert evaluated(tmp_path, cfg) is None


def test_what_keeps_a_table_short_belongs_to_the_tiny_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[tuple[str, ...]]()

    def instead(name: str, ablation: Ablation, *rest: Any) -> Path:
        given.append(ablation.settings)
        table = tmp_path / "table.md"
        table.write_text(name)
        return table

    monkeypatch.setattr(job, "ablate", instead)
    main(["length_penalty"])
    main(["length_penalty", "preset=videoseg_r1_7b"])
    assert given == [("train.steps=40", *SHORT), ()]
    runs = plan("trial", replace(TWO, settings=("train.steps=40", *SHORT)), [0], ["train.steps=2"])
    assert load(runs["soft", 0]).train.steps == 2, "what the user says comes last"


def test_mistakes_are_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, told in (
        (
            ["temporal_rewards"],
            "ablation 'temporal_rewards' is unknown; did you mean 'temporal_reward'",
        ),
        (["temporal_reward", "seeds=a"], "seeds=a: expected whole numbers"),
        (["temporal_reward", "seed=1"], "seed=1: the ablation sets it"),
        (
            ["temporal_reward", "rollout.group_size=1", f"runs={tmp_path}"],
            "must be at least 2",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            main(argv)
    main([])
    assert "temporal_reward" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
