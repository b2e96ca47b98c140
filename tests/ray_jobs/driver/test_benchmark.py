"""`evaluate.sets`: all are read before anything starts, each under its own configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import load, resolve, to_yaml, validate
from configs.schema import Config
from core.types import Hints, Sample, Video
from data.hints import hints_file, write_hints
from data.load import load_samples
from ray_jobs.driver.benchmark import (
    config_of_set,
    configured,
    evaluation_identity,
    read_sets,
    refuse_other_form,
)
from ray_jobs.driver.frozen_sampler import lacks_hints, sampler_of, with_answers
from ray_jobs.record.predictions import FILE, IDENTITY
from ray_jobs.record.run_folder import RunFolder
from tests.data.fixtures import FIXTURES, Written


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Written]:
    formats = ("mevis", "revos", "ref_youtube_vos")
    return {format: FIXTURES[format](tmp_path / format) for format in formats}


def settings(written: dict[str, Written], *extra: str) -> Config:
    sets = [
        f"{{format: mevis, root: {written['mevis'].root}, split: valid_u}}",
        f"{{format: revos, root: {written['revos'].root}, split: valid, no_target: keep}}",
        f"{{format: ref_youtube_vos, root: {written['ref_youtube_vos'].root}, split: valid}}",
    ]
    return load(["revseg_tiny", f"evaluate.sets=[{', '.join(sets)}]", "data.root=/no", *extra])


def test_each_set_is_read_as_an_evaluation_of_its_own(written: dict[str, Written]) -> None:
    cfg = configured(settings(written))
    validate(cfg)
    mevis, revos, hidden = read_sets(cfg)
    assert [each.name for each in (mevis, revos, hidden)] == [
        "mevis_valid_u",
        "revos_valid",
        "ref_youtube_vos_valid",
    ]
    assert [len(each.samples) for each in (mevis, revos, hidden)] == [3, 4, 2]

    alone = load(
        [
            "revseg_tiny",
            "data.format=revos",
            f"data.root={written['revos'].root}",
            "data.test_split=valid",
            "data.no_target=keep",
        ]
    )
    samples = load_samples("revos", alone.data.root, "valid", "keep")
    assert revos.samples == samples
    assert evaluation_identity(revos.cfg, samples) == evaluation_identity(alone, samples)
    assert mevis.cfg.data.no_target == "skip"
    assert hidden.cfg.data.no_target == "keep", "its server takes every expression"
    assert not any(each.cfg.evaluate.sets for each in (mevis, revos, hidden))


def test_every_set_that_cannot_be_read_is_named(written: dict[str, Written]) -> None:
    root = written["mevis"].root
    cfg = settings(written, "evaluate.sets[0].split=valid", "evaluate.sets[1].split=tset")
    with pytest.raises(ValueError) as caught:
        read_sets(cfg)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"evaluate.sets[0] (mevis_valid): {root}/valid: no such folder")
    assert "evaluate.sets[1] (revos_tset)" in second
    assert "tset" in second

    with pytest.raises(ValueError, match=r"sets\[0\] \(hints\): .* give another name"):
        read_sets(settings(written, "evaluate.sets[0].name=hints"))
    with pytest.raises(ValueError, match=r"evaluate.protocol=mean: .* leave it at auto"):
        read_sets(settings(written, "evaluate.protocol=mean"))
    with pytest.raises(ValueError, match=r"sets\[1\]: has the name 'mevis_valid_u'"):
        validate(configured(settings(written, "evaluate.sets[1].name=mevis_valid_u")))


def test_a_figure_of_hidden_truth_is_refused_with_the_remedy(written: dict[str, Written]) -> None:
    root = str(written["ref_youtube_vos"].root)
    with pytest.raises(
        ValueError, match=r"truth of all 2 .* data.no_target=keep .*jobs.submission"
    ):
        load_samples("ref_youtube_vos", root, "valid")


def test_ratings_and_hints_go_with_their_own_data_set(
    written: dict[str, Written], tmp_path: Path
) -> None:
    (tmp_path / "first" / "revos_valid" / "hints").mkdir(parents=True)
    cfg = settings(written, "difficulty.folder=ratings", f"data.hints={tmp_path}/first")
    mevis, revos, _ = cfg.evaluate.sets
    assert config_of_set(cfg, mevis, "skip").difficulty.folder == ""
    same = replace(cfg, data=replace(cfg.data, root=mevis.root))
    assert config_of_set(same, mevis, "skip").difficulty.folder == "ratings"
    assert config_of_set(cfg, mevis, "skip").data.hints == "", "the sampler is asked"
    assert config_of_set(cfg, revos, "skip").data.hints == f"{tmp_path}/first/revos_valid/hints"


def test_one_split_and_several_do_not_share_a_folder(
    written: dict[str, Written], tmp_path: Path
) -> None:
    sets = read_sets(settings(written))
    refuse_other_form(tmp_path, sets)
    refuse_other_form(tmp_path, [])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / IDENTITY).touch()
    refuse_other_form(tmp_path, sets)
    with pytest.raises(ValueError, match=r"an evaluation of evaluate.sets: .*resume=never"):
        refuse_other_form(tmp_path, [])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / FILE).touch()
    with pytest.raises(ValueError, match="an evaluation of one split"):
        refuse_other_form(tmp_path / "b", sets)


def test_the_frozen_sampler_is_the_policy_before_training(tmp_path: Path) -> None:
    before = resolve("tiny/weights/videoseg_r1").resolve()
    assert sampler_of(load(["videoseg_r1_tiny"])) is None, "an untrained policy chooses itself"

    run = RunFolder.open(tmp_path / "run", to_yaml(load(["videoseg_r1_tiny"]))).path
    policy = run / "checkpoints" / "step_3" / "policy"
    policy.mkdir(parents=True)
    (policy / "config.json").touch()
    (run / "best").symlink_to("checkpoints/step_3")
    assert sampler_of(load(["videoseg_r1_tiny", f"policy.path={run}"])) == before

    itself = load(["videoseg_r1_tiny", f"policy.path={policy}", f"evaluate.sampler={run}"])
    assert sampler_of(itself) is None
    gone = load(["videoseg_r1_tiny", f"policy.path={policy}", "evaluate.sampler=no/model"])
    with pytest.raises(ValueError, match=r"evaluate.sampler=no/model: no config.json in"):
        sampler_of(gone)


def test_answers_fill_the_gaps_of_stored_hints(tmp_path: Path) -> None:
    video = Video("v", "v", ("0",), 4, 4)
    samples = [Sample(f"v/{i}", video, f"query {i}", ()) for i in range(3)]
    samples[0] = replace(samples[0], hints=Hints(0))
    file = hints_file(tmp_path, "valid")
    assert with_answers(samples, file) == samples
    write_hints(tmp_path, "valid", samples, {"v/0": Hints(7), "v/1": Hints(5), "v/2": None})
    filled = with_answers(samples, file)
    assert [each.hints for each in filled] == [Hints(0), Hints(5), None]
    assert lacks_hints(filled)
    assert not lacks_hints(filled[:2])


def test_the_sets_of_training_need_not_be_there(written: dict[str, Written]) -> None:
    training = "data.sets=[{format: mevis, root: /nowhere, split: train}]"
    with pytest.raises(ValueError, match=r"data.sets\[0\].root=/nowhere"):
        validate(settings(written, training))
    validate(configured(settings(written, training)))
    root = f"data.root={written['mevis'].root}"
    validate(configured(settings(written, training, "evaluate.sets=[]", root)))
