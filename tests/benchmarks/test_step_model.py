"""The model of a step: its counts by hand, and what follows from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import step_model
from benchmarks.step_model import Layout, Machine, Measured, Work
from configs.load import load
from configs.schema import Config
from models.families.sizes import RELEASED, sizes_of
from models.prompt_tokens import PromptTokens

SIZES = sizes_of(RELEASED["Qwen2.5-VL-7B"])
WORK = Work(learn=1e15, last=1e13, prefill=1e14, steps=1e4, weight_bytes=1e10, kv_bytes=1e8)
MACHINE = Machine(flops=1e14, hbm=1e12)
COLOCATED = [
    "revseg_7b",
    "rollout.workers=8",
    "learner.world_size=8",
    "cluster.weight_backend=ipc",
]


@pytest.fixture
def cfg() -> Config:
    return load(["revseg_7b"])


def test_layers_have_all_parameters_but_words_norms_and_biases() -> None:
    words = 2 * SIZES.vocabulary * SIZES.hidden
    missing = SIZES.language - words - step_model.layer_parameters(SIZES)
    assert 0 < missing < 1e-4 * SIZES.language


def test_pairs_of_a_tree() -> None:
    assert step_model.attended(10, [4, 6]) == 50 + (40 + 8) + (60 + 18)


def test_learning_costs_four_forward_passes_and_one_of_the_reference(cfg: Config) -> None:
    assert step_model.learned(cfg, 10.0, 1.0) == 4 * 11 + 11
    cfg.grpo.kl_coef = 0.0
    assert step_model.learned(cfg, 10.0, 1.0) == 4 * 11
    cfg.learner.freeze_vision = True
    assert step_model.learned(cfg, 10.0, 1.0) == 4 * 10 + 1
    cfg.learner.gradient_checkpointing = False
    cfg.learner.optimizer_steps = 2
    assert step_model.learned(cfg, 10.0, 1.0) == 2 * (3 * 10 + 1)


def test_a_group_costs_its_first_prompt_once(cfg: Config) -> None:
    turns = (PromptTokens(200, 4096, 16, 1000), PromptTokens(100, 900, 1, 200))
    one = replace(cfg, rollout=replace(cfg.rollout, group_size=1))
    whole = step_model.work_of(cfg, SIZES, turns, answer=0.25)
    single = step_model.work_of(one, SIZES, turns, answer=0.25)
    assert whole.steps == 8 * single.steps == 128 * 8 * 300
    assert single.learn < whole.learn < 4 * single.learn
    assert whole.weight_bytes == 2 * SIZES.parameters


def test_decoding_reads_weights_once_for_all_episodes_of_an_engine() -> None:
    alone = step_model.play_seconds(WORK, engines=1, gpus=1, together=1, machine=MACHINE)
    assert alone == pytest.approx(1e4 * 1.01e10 / 1e12 + 1.0)
    many = step_model.play_seconds(WORK, engines=2, gpus=1, together=100, machine=MACHINE)
    assert many == pytest.approx((100 * 2e10 / 1e12 + 1.0) / 2)


def test_sides_overlap_on_separate_gpus_only() -> None:
    apart = step_model.step_of(Layout(2, 5, 8), 10.0, 8.0, 0.5, 1.0, 2.0)
    assert apart.whole == 10.0 + 0.5 + 1.0
    assert apart.busy == pytest.approx((2 * 10 + 5 * 8) / (8 * 11.5))
    together = step_model.step_of(Layout(8, 8, 8, together=True), 10.0, 8.0, 0.5, 1.0, 2.0)
    assert together.whole == 10.0 + 8.0 + 1.0 + 2.0
    assert together.busy == pytest.approx(18 / 21)


def test_every_layout_has_room_for_all_actors(cfg: Config) -> None:
    own, *others = step_model.layouts(cfg)
    assert own == Layout(3, 4, 8)
    splits = [(each.engines, each.ranks) for each in others if not each.together]
    assert splits == [(1, 6), (2, 5), (4, 3), (5, 2), (6, 1)]
    assert others[-1] == Layout(8, 8, 8, together=True)
    colocated = load(COLOCATED)
    assert step_model.layout_of(colocated) == others[-1]


def test_measured_seconds_are_scaled_to_other_layouts(cfg: Config, tmp_path: Path) -> None:
    line = {"step": 1, "balance/play_s": 30.0, "balance/learn_s": 100.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    measured = step_model.measured_of(tmp_path)
    assert measured == Measured(30.0, 100.0)
    step = step_model.model(cfg, Layout(2, 5, 8), WORK, MACHINE, measured)
    assert (step.play, step.learn) == (45.0, 80.0)
    with pytest.raises(ValueError, match="no step with balance/play_s"):
        step_model.measured_of(tmp_path / "nothing")


def test_a_table_for_each_full_size_preset(capsys: pytest.CaptureFixture[str]) -> None:
    step_model.main(COLOCATED)
    lines = capsys.readouterr().out.splitlines()
    assert "8 play, then learn (as set)" in lines[4]
    assert all(line.count("|") == 7 for line in lines[2:])
