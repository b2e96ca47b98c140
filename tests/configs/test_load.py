"""Loading: a right command line is a typed `Config`; a wrong one is an error with a remedy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data.holdout
from configs.load import (
    HOLDOUT,
    MOST_LORA_RANK,
    choices,
    help_text,
    keys,
    load,
    presets,
    resolve,
    to_yaml,
    validate,
)
from configs.schema import RUN, Config, SetConfig
from core.settings import identity, settings_of
from models.engine.settings import LORA_RANKS
from ray_jobs.train import refuse_choosing_on_the_test_split


def test_overrides_are_typed() -> None:
    overrides = ["learner.lr=1e-4", "learner.betas=[0.9,0.95]", "name=7", "tracking.mlflow_uri="]
    cfg = load(["revseg_tiny", *overrides])
    assert type(cfg) is Config
    assert cfg.learner.lr == 1e-4
    assert type(cfg.learner.betas) is tuple
    assert cfg.learner.betas == (0.9, 0.95)
    assert cfg.name == "7"
    assert cfg.tracking.mlflow_uri == ""


def test_words_that_yaml_reads_as_booleans() -> None:
    assert load(["revseg_tiny", "cluster.use_gpu=no"]).cluster.use_gpu == "no"


def test_values_may_hold_equal_signs() -> None:
    cfg = load(["revseg_tiny", "tracking.mlflow_uri=http://host:1/?a=b"])
    assert cfg.tracking.mlflow_uri == "http://host:1/?a=b"


def test_options_are_open_and_merge_into_the_preset() -> None:
    before = load(["revseg_tiny"]).system.options
    options = load(["revseg_tiny", "system.options.new_one=1e-3"]).system.options
    assert options == {**before, "new_one": 0.001}
    assert type(options) is dict


@pytest.mark.parametrize("preset", presets())
def test_every_preset_loads_and_survives_the_run_folder(preset: str, tmp_path: Path) -> None:
    cfg = load([preset])
    (tmp_path / "config.yaml").write_text(to_yaml(cfg))
    assert load([str(tmp_path / "config.yaml")]) == cfg


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("learner.lrr=1", "learner.lrr: no such key; did you mean learner.lr?"),
        ("lr=1", "lr: no such key; did you mean learner.lr?"),
        ("leraner.lr=1", "leraner.lr: no such key; did you mean learner.lr?"),
        ("learner=1", "learner is a section; its keys: learner.world_size"),
        ("data.sets=3", r"data.sets=3: expected a list of data sets, such as \[\{format: mevis"),
        ("data.sets=[3]", r"data.sets\[0\]=3: expected a data set, such as \{format: mevis"),
        ("data.sets=[{format: mevis, split: a}]", r"data.sets\[0\].root: not set"),
        (
            "evaluate.sets=[{format: mevs, root: a, split: b}]",
            r"evaluate.sets\[0\].format='mevs' .* \(did you mean mevis\?\)",
        ),
        (
            "data.sets=[{format: own, root: a, split: b, wight: 1}]",
            r"data.sets\[0\].wight is unknown; did you mean 'weight'\?",
        ),
        (
            "data.sets=[{format: own, root: a, split: b, repeats: 0}]",
            r"data.sets\[0\].repeats=0: must be at least 1",
        ),
        ("data.sets[0].root=a", r"data.sets\[0\].root: data.sets has 0 sets so far"),
        ("learner.lr=fast", r"learner.lr='fast' \(str\): expected a number, such as 1e-06"),
        ("learner.lr", "expected key=value"),
        ("train.steps=1.5", r"train.steps=1.5 \(float\): expected a whole number"),
        (
            "learner.betas=[0.9]",
            r"learner.betas=\[0.9\] \(list\): expected a list of a number and a number",
        ),
        ("policy.dtype=null", r"policy.dtype=None .*: expected one of float32 \| bfloat16"),
        ("name=[1,", "not a YAML value"),
        ("system.options=3", r"system.options=3 \(int\): expected a mapping"),
        (
            "grpo.aggregation=tokenmean",
            r"expected one of token_mean .* \(did you mean token_mean\?\)",
        ),
        (
            "prepare.steps=[chek]",
            r"prepare.steps=.*: expected .* one of check \| fit .* \(did you mean check\?\)",
        ),
        ("learner.zero_stage=4", r"learner.zero_stage=4 \(int\): expected one of 0 \| 1 \| 2 \| 3"),
    ],
)
def test_mistakes_on_the_command_line(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(["revseg_tiny", argument])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learner: {lrr: 1}", "mine.yaml: learner.lrr: no such key; did you mean learner.lr?"),
        ("learner: 3", "mine.yaml: learner: no such key; learner is a section"),
        ("- a", "expected `key: value` lines"),
        ("a: [", "not readable as YAML"),
        (
            "base: revseg_tny",
            "mine.yaml: base: revseg_tny: no such preset; did you mean revseg_tiny?",
        ),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load([str(tmp_path / "mine.yaml")])


def test_unknown_presets() -> None:
    with pytest.raises(ValueError, match="revseg_tny: no such preset; did you mean revseg_tiny?"):
        load(["revseg_tny"])
    with pytest.raises(ValueError, match="the first argument is a preset"):
        load(["learner.lr=1"])
    with pytest.raises(ValueError, match="the first argument is a preset"):
        load([])


def test_base_is_inherited(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "base: revseg_tiny\nname: mine\nsystem: {options: {new_one: 1}}\n"
    )
    mine = load([str(tmp_path / "mine.yaml")])
    base = load(["revseg_tiny"])
    assert mine.system.options == {**base.system.options, "new_one": 1}
    assert mine.tracking.preset == "mine"
    mine.tracking.preset = base.tracking.preset
    assert dataclasses.replace(mine, name=base.name, system=base.system) == base


def test_a_circle_of_bases(tmp_path: Path) -> None:
    for a, b in (("x", "y"), ("y", "x")):
        (tmp_path / f"{a}.yaml").write_text(f"base: {tmp_path / b}.yaml\n")
    with pytest.raises(ValueError, match="`base` goes in a circle: x.yaml -> y.yaml"):
        load([str(tmp_path / "x.yaml")])


@settings(deadline=None)  # Loading is slow on a busy machine.
@given(
    lr=st.floats(1e-12, 1e3),
    steps=st.integers(0, 10**9),
    name=st.from_regex(r"[a-z_]{1,20}", fullmatch=True),
)
def test_overrides_keep_their_value(lr: float, steps: int, name: str) -> None:
    overrides = [f"learner.lr={lr!r}", f"train.steps={steps}", f'tracking.experiment="{name}"']
    cfg = load(["revseg_tiny", *overrides])
    assert cfg.learner.lr == lr
    assert cfg.train.steps == steps
    assert cfg.tracking.experiment == name


def _runnable(tmp_path: Path) -> list[str]:
    (tmp_path / "config.json").write_text("{}")
    return [
        "revseg_tiny",
        f"policy.path={tmp_path}",
        f"segmenter.path={tmp_path}",
        f"data.root={tmp_path}",
    ]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("rollout.group_size=1", "rollout.group_size=1: .* at least 2"),
        ("learner.world_size=0", "learner.world_size=0: must be at least 1"),
        ("rollout.top_p=0", "rollout.top_p=0.0: must be above 0 and at most 1"),
        ("learner.lora_rank=-1", "learner.lora_rank=-1: must be at least 0"),
        ("train.steps=-1", "train.steps=-1: must be at least 0"),
        ("policy.path=nowhere", "policy.path=nowhere: no config.json in"),
        ("segmenter.path=nowhere", "segmenter.path=nowhere: .* does not exist"),
        ("train.resume=oto", "train.resume=oto: expected auto, never"),
        ("name=a/b", "name='a/b': must be a plain folder name"),
        ("data.holdout=0.1", "data.holdout=0.1: .* neither trained on nor watched; set data.eval_"),
        ("data.eval_split=holdout", "data.holdout=0: the split holdout is a share of the training"),
        ("policy.path=Qwen/Qwen2.5-VL-7B-Instruct", "`hf download Qwen/Qwen2.5-VL-7B-Instruct "),
        ("policy.path=checkpoints/Qwen3-VL-4B", "`hf download Qwen/Qwen3-VL-4B --local-dir check"),
        ("segmenter.path=tiny/weights/segmentr", "did you mean tiny/weights/segmenter. Else give"),
        (
            "policy.path=tiny/weights/revsek",
            "did you mean tiny/weights/revseg",
        ),
        ("prepare.filter_iou=60", "prepare.filter_iou=60.0: must be at least 0 and at most 1"),
    ],
)
def test_validate(tmp_path: Path, argument: str, message: str) -> None:
    good = _runnable(tmp_path)
    validate(load(good))
    with pytest.raises(ValueError, match=message):
        validate(load([*good, argument]))


def test_older_groups_need_importance_weights(tmp_path: Path) -> None:
    stale = [*_runnable(tmp_path), "rollout.max_staleness=2"]
    validate(load(stale))
    with pytest.raises(ValueError, match=r"max_staleness=2: .* give grpo.importance_cap above 0"):
        validate(load([*stale, "grpo.importance_cap=0"]))


def test_lora_needs_a_scale(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="learner.lora_alpha=0.0: must be above 0"):
        validate(load([*_runnable(tmp_path), "learner.lora_rank=4", "learner.lora_alpha=0"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "lora_publish=adapter: there is no adapter; set learner.lora_rank"),
        (["learner.lora_rank=513"], "lora_rank=513: vLLM's LoRA takes at most 512"),
        (
            ["learner.lora_rank=4", "cluster.weight_backend=nccl"],
            "lora_publish=adapter: cluster.weight_backend=nccl sends merged weights only",
        ),
        (
            ["learner.lora_rank=4", "cluster.weight_backend=ipc"],
            "lora_publish=adapter: cluster.weight_backend=ipc sends merged weights only",
        ),
    ],
)
def test_an_adapter_that_cannot_be_sent_alone(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    alone = [*_runnable(tmp_path), "learner.lora_publish=adapter"]
    validate(load([*alone, "learner.lora_rank=4"]))
    with pytest.raises(ValueError, match=message):
        validate(load([*alone, *arguments]))


def test_the_widest_adapter_is_that_of_the_engine() -> None:
    assert LORA_RANKS[-1] == MOST_LORA_RANK


def test_validate_reports_all_problems_at_once(tmp_path: Path) -> None:
    bad = ["rollout.group_size=1", "data.root=nowhere", "data.synthetic=false"]
    with pytest.raises(ValueError) as error:
        validate(load([*_runnable(tmp_path), *bad]))
    keys_of_lines = [line.split("=")[0] for line in str(error.value).splitlines()]
    assert keys_of_lines == ["rollout.group_size", "data.root"]


def test_data_root_may_be_absent_if_it_can_be_made(tmp_path: Path) -> None:
    validate(load([*_runnable(tmp_path), "data.root=nowhere", "data.synthetic=true"]))


TWO_SETS = (
    "data.sets=[{format: mevis, root: ., split: train, weight: 2},"
    " {format: own, root: ., split: a/b, name: mine, weight: 1, no_target: keep}]"
)


def test_sets_are_typed_and_changed_one_by_one() -> None:
    cfg = load(["revseg_tiny", TWO_SETS, "data.sets[1].root=elsewhere"])
    first, second = cfg.data.sets
    assert first == SetConfig("mevis", ".", "train", weight=2.0)
    assert first.label == "mevis_train"
    assert second == SetConfig("own", "elsewhere", "a/b", "mine", 1.0, no_target="keep")
    assert dataclasses.replace(second, name="").label == "own_a_b"
    assert cfg.evaluate.sets == []


def test_sets_survive_the_run_folder(tmp_path: Path) -> None:
    cfg = load(["revseg_tiny", TWO_SETS])
    (tmp_path / "config.yaml").write_text(to_yaml(cfg))
    assert load([str(tmp_path / "config.yaml")]) == cfg
    assert identity(cfg, RUN) != identity(load(["revseg_tiny"]), RUN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.sets[0].name=mine", r"data.sets\[1\]: has the name 'mine' of data.sets\[0\]"),
        ("data.sets[0].name=a/b", r"data.sets\[0\].name='a/b': must be one plain word"),
        ("data.sets[1].weight=0", r"data.sets\[1\].weight=0: the other sets have weights"),
        ("data.sets[0].repeats=2", r"data.sets\[0\].repeats=2: has no effect beside a weight"),
        (
            "data.keep_file=k.json",
            "data.keep_file=k.json: belongs to data.train_split",
        ),
        ("data.sets[1].root=nowhere", r"data.sets\[1\].root=nowhere: .* does not exist"),
    ],
)
def test_sets_that_contradict_each_other(tmp_path: Path, change: str, message: str) -> None:
    cfg = load([*_runnable(tmp_path), TWO_SETS, change])
    with pytest.raises(ValueError, match=message):
        validate(cfg)


def test_relative_paths_belong_to_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (resolve("configs") / "schema.py").is_file()
    assert resolve(str(tmp_path)) == tmp_path


def test_a_policy_may_be_a_checkpoint_or_a_run(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    step = run / "checkpoints" / "step_2"
    (step / "policy").mkdir(parents=True)
    (step / "policy" / "config.json").write_text("{}")
    (run / "best").symlink_to("checkpoints/step_2")
    for path, found in [
        (run, f"{run}/best/policy"),
        (step, f"{step}/policy"),
        (step / "policy", f"{step}/policy"),
    ]:
        assert load(["revseg_tiny", f"policy.path={path}"]).policy.path == found


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    cfg = load(["revseg_tiny", f"policy.path={tmp_path}"])
    assert cfg.policy.path == str(tmp_path)
    message = "no config.json in .*; give a model, checkpoint or run folder"
    with pytest.raises(ValueError, match=message):
        validate(cfg)


def test_help_lists_every_key_with_its_help() -> None:
    lines = help_text().splitlines()
    for each in settings_of(Config()):
        assert each.help, each.key
        (row,) = [i for i, line in enumerate(lines) if line.startswith(f"  {each.key}=")]
        # The help of a long default is on the next line.
        assert each.help in lines[row] or each.help in lines[row + 1]
        for word in choices(each.key):
            assert word in lines[row] or word in lines[row + 1]
    with pytest.raises(SystemExit):
        load(["--help"])


def test_keys_are_those_of_the_schema() -> None:
    assert keys()["learner.betas"] == (0.9, 0.999)
    assert list(keys()) == [each.key for each in settings_of(Config())]


def test_configs_need_neither_torch_nor_ray() -> None:
    heavy = ("torch", "ray", "transformers")
    code = f"import sys, configs.load; sys.exit(any(m in sys.modules for m in {heavy}))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_the_split_held_out_has_the_name_of_the_data_layer() -> None:
    assert HOLDOUT == data.holdout.HOLDOUT


@pytest.mark.parametrize("preset", presets())
def test_best_is_not_chosen_on_the_reported_split(preset: str) -> None:
    cfg = load([preset])
    refuse_choosing_on_the_test_split(cfg)
    assert cfg.data.eval_split != cfg.data.test_split
    with pytest.raises(ValueError, match="`best` would be chosen on the reported split"):
        refuse_choosing_on_the_test_split(
            load([preset, "data.test_split=x", "data.eval_split=x", "train.eval_every=1"])
        )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("policy: {path: '${oc.env:SECRET}'}", "policy: path: '${oc.env:SECRET}'"),
        ("policy: {path: '${oc.decode:${name}}'}", "policy: path"),
        ("policy: {path: 'a ${${name}:SECRET}'}", "policy: path"),
        ("system: {options: {deep: [1, '${ oc.env : SECRET }']}}", "system: options: deep[1]"),
        ("data: {sets: [{root: '${oc.env:SECRET}'}]}", "data: sets[0]: root"),
        ("allow_resolvers: true\nname: '${oc.env:SECRET}'", "name: '${oc.env:SECRET}'"),
    ],
)
def test_a_foreign_preset_does_not_read_the_environment(
    text: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    file = tmp_path / "foreign.yaml"
    file.write_text(f"base: revseg_tiny\n{text}\n")
    with pytest.raises(ValueError, match="allow_resolvers=yes on the command line") as error:
        load([str(file)])
    assert f"{file}: {key}" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_resolvers_that_the_command_line_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    file = tmp_path / "own.yaml"
    file.write_text("base: revseg_tiny\nname: '${oc.env:SECRET}'\ndata: {root: 'x/${name}'}\n")
    with pytest.raises(ValueError, match="allow_resolvers=yes"):
        load([str(file), "allow_resolvers=no"])
    cfg = load([str(file), "allow_resolvers=yes"])
    assert (cfg.name, cfg.data.root) == ("hunter2", "x/hunter2")
    file.write_text("base: revseg_tiny\ndata: {root: 'x/${name}'}\n")
    assert load([str(file)]).data.root == "x/revseg_tiny"
