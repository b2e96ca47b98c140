"""Plans: every actor's share counted, per node, and the one error with arithmetic and remedy."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cluster.plan import Job, Node, Plan, fit, plan_of, plans, shortage, tightest_plan
from configs.load import load
from configs.schema import Config

JOBS: tuple[Job, ...] = (
    "train",
    "warm_start",
    "evaluate",
    "segment",
    "prepare",
    "rate_difficulty",
)
FULL_SIZE = (
    "revseg_7b",
    "veason_r1_7b",
    "videoseg_o3_2b",
    "videoseg_o3_4b",
    "videoseg_r1_3b",
    "videoseg_r1_7b",
)
EIGHT = [Node(8, 96)]


def config(
    engines: int = 1, ranks: int = 1, rewards: int = 1, segmenters: int = 1, **cluster: Any
) -> Config:
    cfg = Config()
    cfg.rollout.workers = engines
    cfg.learner.world_size = ranks
    cfg.reward.workers = rewards
    cfg.segmenter.workers = segmenters
    cfg.cluster.use_gpu = "yes"
    for name, value in cluster.items():
        setattr(cfg.cluster, name, value)
    return cfg


def loads(plan: Plan, nodes: list[Node]) -> dict[tuple[int, int], float]:
    """Return the load of every GPU, (node, number), of a plan on these nodes."""
    spots = fit(plan, nodes)
    assert spots is not None
    found: dict[tuple[int, int], float] = {}
    for bundle, spot in zip(plan.bundles, spots, strict=True):
        for gpu in spot.gpus:
            place = (spot.node, gpu)
            found[place] = found.get(place, 0.0) + min(bundle.gpus, 1.0)
    return found


def test_training_counts_every_actor() -> None:
    plan = plan_of(config(3, 4, 4, 1), "train", EIGHT)
    assert plan.gpus == 7.5
    assert plan.whole_gpus == 8
    counts = {kind: plan.count(kind) for kind in ("rollout", "learner", "reward", "segmenter")}
    assert counts == {"rollout": 3, "learner": 4, "reward": 4, "segmenter": 1}
    assert str(plan) == (
        "3 engines x 1 GPU + 4 learner ranks x 1 GPU + 4 reward actors x 0.1 GPU + "
        "1 segmenter actor x 0.1 GPU"
    )


def test_no_gpu_is_left_for_shares_beside_4_engines_and_4_ranks_on_8() -> None:
    with pytest.raises(
        ValueError, match=r"= 8.5 GPUs, 9 whole ones .* the cluster has 8 GPUs"
    ) as e:
        plan_of(config(4, 4, 4, 1), "train", [Node(8)])
    assert "set rollout.workers=3, add nodes" in str(e.value)


def test_shares_fill_gpus_but_never_span_them() -> None:
    cfg = config(1, 1, rewards=13, segmenters=2)
    plan = plan_of(cfg, "train", [Node(4)])
    assert plan.whole_gpus == 4
    assert max(loads(plan, [Node(4)]).values()) <= 1.0
    assert fit(plan, [Node(3)]) is None


def test_an_engine_over_several_gpus_stays_on_one_node() -> None:
    cfg = config(engines=1, ranks=3)
    cfg.rollout.tensor_parallel = 4
    assert fit(next(plans(cfg, "train")), [Node(4), Node(4)]) is not None
    with pytest.raises(ValueError, match=r"8 GPUs \(3 \+ 3 \+ 2 on 3 nodes\).*tensor_parallel"):
        plan_of(cfg, "train", [Node(3), Node(3), Node(2)])


def test_cores_are_counted_too() -> None:
    plan = next(plans(config(3, 4, 4, 1), "train"))
    assert fit(plan, [Node(8, cpus=12)]) is not None
    assert fit(plan, [Node(8, cpus=11)]) is None
    assert "and 11 CPU cores" in shortage(plan, [Node(8, cpus=11)])


@pytest.mark.parametrize("preset", FULL_SIZE)
def test_full_size_presets_fit_on_8_gpus(preset: str) -> None:
    for job in JOBS:
        plan_of(load([preset]), job, EIGHT)


@pytest.mark.parametrize("preset", FULL_SIZE)
@pytest.mark.parametrize("job", ["evaluate", "segment", "prepare", "rate_difficulty"])
def test_jobs_without_a_learner_do_with_one_gpu(preset: str, job: Job) -> None:
    plan = plan_of(load([preset, "prepare.steps=[filter]"]), job, [Node(1, 16)])
    assert plan.whole_gpus == 1
    assert plan.count("learner") == 0


def test_an_evaluation_takes_the_most_engines_that_fit() -> None:
    cfg = config(engines=3, ranks=4, rewards=4)
    assert plan_of(cfg, "evaluate", [Node(8)]).share("rollout") == 1.0
    lent = plan_of(cfg, "evaluate", [Node(3)])
    assert lent.count("rollout") == 3
    assert 0.5 < lent.share("rollout") < 1
    assert plan_of(cfg, "evaluate", [Node(2)]).count("rollout") == 2


def test_two_engines_never_share_a_gpu() -> None:
    cfg = config(engines=4, rewards=1)
    for gpus in (1, 2, 3, 4):
        plan = plan_of(cfg, "evaluate", [Node(gpus)])
        engines = [bundle for bundle in plan.bundles if bundle.seats[0].kind == "rollout"]
        assert len(engines) == plan.count("rollout") == gpus


def test_seats_of_a_bundle_do_not_exceed_it() -> None:
    drawing = load(["videoseg_o3_2b"])
    for cfg in (config(3, 4, 4, 3), config(2, 3, weight_backend="ipc"), drawing):
        for job in JOBS:
            for plan in plans(cfg, job):
                for bundle in plan.bundles:
                    gpus = [seat.gpus for seat in bundle.seats]
                    together = max(gpus) if job == "segment" else sum(gpus)
                    assert together <= bundle.gpus + 1e-9


def test_warm_start_and_ratings_ask_for_one_kind_only() -> None:
    cfg = config(3, 4, 4, 2)
    assert plan_of(cfg, "warm_start", [Node(4)]).gpus == 4
    assert plan_of(cfg, "rate_difficulty", [Node(4)]).gpus == 3
    assert plan_of(cfg, "prepare", [Node(0)]).bundles == ()


def test_a_job_without_gpus_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="segment asks for .* has 0 GPUs: add nodes, or set clus"):
        plan_of(config(), "segment", [])
    with pytest.raises(ValueError, match="set learner.world_size=2"):
        plan_of(config(ranks=4), "warm_start", [Node(2)])


def test_judges_divide_the_gpus_among_them() -> None:
    cfg = config(segmenters=12)
    cfg.prepare.steps = ["filter"]
    assert plan_of(cfg, "prepare", [Node(12)]).share("judge") == 1.0
    # Two of .83 would not fit on one GPU: 12 judges on 10 GPUs are halves.
    assert plan_of(cfg, "prepare", [Node(10)]).share("judge") == 0.5
    assert plan_of(cfg, "prepare", [Node(1)]).share("judge") == pytest.approx(1 / 12, abs=1e-4)


def test_pairs_of_engine_and_rank_lend_a_part_to_the_others() -> None:
    cfg = config(2, 3, rewards=4, weight_backend="ipc")
    assert plan_of(cfg, "train", [Node(4)]).share("learner") == 0.5
    lent = plan_of(cfg, "train", [Node(3)])
    assert lent.share("learner") == 0.4
    assert [bundle.gpus for bundle in lent.bundles] == [1.0] * 3
    assert lent.bundle_of("rollout", 1) == lent.bundle_of("learner", 1) == 1
    # No learner, no pairs.
    assert plan_of(cfg, "evaluate", [Node(8)]).share("rollout") == 1.0


def test_pairs_need_a_rank_for_each_engine() -> None:
    cfg = config(3, 2, weight_backend="ipc")
    with pytest.raises(ValueError, match="rollout.workers=3, .* and learner.world_size=2"):
        plan_of(cfg, "train", EIGHT)
    plan_of(cfg, "evaluate", EIGHT)


def test_the_tightest_plan_keeps_all_engines() -> None:
    cfg = config(engines=3, ranks=4, rewards=4)
    tight = tightest_plan(cfg, "evaluate")
    assert tight.count("rollout") == tight.whole_gpus == 3
    assert tightest_plan(cfg, "train") == next(plans(cfg, "train"))


def watching(**settings: Any) -> Config:
    """Settings of a training that evaluates beside its steps."""
    cfg = config(**settings)
    cfg.train.eval_every = 10
    cfg.train.eval_beside = True
    return cfg


def test_an_evaluation_beside_training_has_a_gpu_of_its_own() -> None:
    plan = plan_of(watching(engines=2, ranks=4, rewards=4), "train", EIGHT)
    assert plan.whole_gpus == 8
    assert plan.gpus == 7.5
    assert str(plan).endswith(
        "1 segmenter actor x 0.1 GPU, and beside it 1 engine x 0.6 GPU + 1 reward actor x 0.1 GPU "
        "+ 1 segmenter actor x 0.1 GPU"
    )
    evaluation = plan.evaluation
    assert evaluation.whole_gpus == 1
    assert evaluation.count("rollout") == 1
    assert plan.own + evaluation.bundles == plan.bundles


def test_seats_of_the_evaluation_are_none_of_the_training() -> None:
    cfg = watching(engines=2, ranks=4, rewards=4)
    plan = plan_of(cfg, "train", EIGHT)
    without = plan_of(config(engines=2, ranks=4, rewards=4), "train", EIGHT)
    assert plan.seats == without.seats
    assert plan.share("rollout") == 1.0
    assert plan.bundle_of("segmenter", 1) is None
    assert without.evaluation.bundles == ()


def test_no_gpu_for_an_evaluation_beside_is_one_error_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"and beside it .* 9 whole ones") as error:
        plan_of(watching(engines=3, ranks=4, rewards=4), "train", EIGHT)
    assert "set train.eval_beside=false, add nodes" in str(error.value)


def test_without_evaluations_there_is_nothing_beside() -> None:
    cfg = watching()
    cfg.train.eval_every = 0
    assert plan_of(cfg, "train", EIGHT) == plan_of(config(), "train", EIGHT)


def test_an_evaluation_beside_with_an_engine_over_several_gpus() -> None:
    cfg = watching(ranks=2)
    cfg.rollout.tensor_parallel = 2
    plan = plan_of(cfg, "train", [Node(8)])
    assert [bundle.gpus for bundle in plan.evaluation.bundles] == [2.0, 0.1, 0.1]


def test_a_drawing_policy_has_its_drawer_beside() -> None:
    cfg = watching(weight_backend="ipc")
    cfg.mask.token = "[SEG]"
    assert plan_of(cfg, "train", EIGHT).evaluation.count("drawer") == 1


def test_a_node_without_known_cores_has_enough() -> None:
    assert math.isinf(Node(8).cpus)
