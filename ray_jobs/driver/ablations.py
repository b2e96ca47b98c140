"""The ablations of all systems as one table, and the Markdown table of their outcomes.

A variant is a list of settings on top of a preset. The first variant of an ablation is the
reference of the others; `published` and `signs` hold the paper's result. The common settings of an
ablation keep it small enough for two CPU cores; they belong to its tiny preset and are dropped with
any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

# Measure of a run -> decimals in the table.
MEASURES = {
    # Greedy, on the test split, after training.
    "J&F": 1,
    "sampled J&F": 1,
    # Difference of greedy J&F to before training.
    "gain": 1,
    # The others are means over the episodes of the last steps. tIoU is in percent, of the part of
    # the video that an episode names.
    "tIoU": 1,
    "turns": 2,
    "tokens": 1,
    "reasoning tokens": 1,
}

# Measure -> value of one run; a measure may be missing.
Outcome = Mapping[str, float]
OutcomeBySeed = Mapping[int, Outcome]


@dataclass(frozen=True)
class Variant:
    """One row of an ablation.

    Attributes:
        name: Its name in the table.
        settings: Its changes to the preset.
        published: The paper's figures, or `NOT_READ`.
        signs: Measure -> published sign of the difference to the first variant.
    """

    name: str
    settings: tuple[str, ...] = ()
    published: str = ""
    signs: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ablation:
    """Variants to compare on the same data.

    Attributes:
        preset: The preset of all runs.
        source: Place and meaning of the published figures.
        variants: The reference first.
        note: A remark below the table.
        settings: Settings of all variants, with this preset.
        job: "evaluate" if the variants differ in how a trained policy is used.
    """

    preset: str
    source: str
    variants: tuple[Variant, ...]
    note: str = ""
    settings: tuple[str, ...] = ()
    job: Literal["train", "evaluate"] = "train"


WORSE = {"J&F": -1, "sampled J&F": -1}
# The full paper is arXiv 2606.06819.
NOT_READ = "not read"
SHORT = ("train.eval_before=false", "train.eval_samples=150", "train.sampled_repeats=2")
LONG = ("data.root=datasets/synthetic_long", "data.length=long", "system.options.round_frames=5")

ABLATIONS: Mapping[str, Ablation] = {
    "decomposition": Ablation(
        "revseg_tiny",
        "ReVSeg, Tab. 5: J&F on Ref-DAVIS17 / ReasonVOS, after RL",
        (
            Variant("two rounds", (), "80.7 / 64.8"),
            Variant("one round", ("system.options.decompose=false",), "5.3 / 7.6", WORSE),
        ),
        "The shipped tiny policy was taught two rounds, so one round starts from an unknown form.",
    ),
    "temporal_reward": Ablation(
        "revseg_tiny",
        "ReVSeg, Tab. 7: J&F on MeViS / ReasonVOS",
        (
            Variant("soft", ("system.options.temporal_reward=soft",), "59.8 / 64.8"),
            Variant("0 / 1", ("system.options.temporal_reward=binary",), "57.4 / 59.7", WORSE),
            Variant("none", ("system.options.temporal_reward=none",), "54.7 / 58.0", WORSE),
        ),
    ),
    "length_penalty": Ablation(
        "videoseg_r1_tiny",
        "VideoSeg-R1, Tab. 7: J&F on MeViS / ReVOS; reasoning tokens",
        (
            Variant("with", ("system.options.length_penalty=clamped",), "55.3 / 61.1; 52.7 / 56.1"),
            Variant(
                "without",
                ("system.options.length_penalty=none",),
                "52.2 / 57.3; 82.3 / 89.9",
                WORSE | {"tokens": 1, "reasoning tokens": 1},
            ),
        ),
        settings=("train.steps=40", *SHORT),
    ),
    "prompts": Ablation(
        "videoseg_r1_tiny",
        "VideoSeg-R1, Tab. 6: J&F on ReVOS, gIoU on ReasonSeg",
        (
            Variant("box, point, negative point", ("system.options.answer=all",), "61.1 / 69.8"),
            Variant("box, point", ("system.options.answer=box_point",), "60.3 / 68.2", WORSE),
            Variant(
                "box, negative point", ("system.options.answer=box_negative",), "58.1 / 66.5", WORSE
            ),
            Variant("box", ("system.options.answer=box",), "57.2 / 65.7", WORSE),
            Variant("point", ("system.options.answer=point",), "56.5 / 64.0", WORSE),
        ),
        # Few steps are enough: the shipped policy was taught all five forms.
        settings=("train.steps=10", *SHORT),
    ),
    "sampler": Ablation(
        "videoseg_r1_tiny",
        "VideoSeg-R1, Tab. 5: J&F on MeViS / ReVOS",
        (
            Variant(
                "key segment and target frame", ("system.options.sampler=full",), "55.3 / 61.1"
            ),
            Variant("target frame alone", ("system.options.sampler=direct",), "52.5 / 57.6", WORSE),
            Variant(
                "random in key segment", ("system.options.sampler=random",), "49.2 / 56.3", WORSE
            ),
            Variant("first frame", ("system.options.sampler=first",), "45.7 / 53.9", WORSE),
        ),
        "The sampler is not trained, so one policy is evaluated with each: policy.path, by default "
        "the shipped one.",
        job="evaluate",
    ),
    "thinking": Ablation(
        "videoseg_r1_tiny",
        "VideoSeg-R1, Tab. 4: J&F on MeViS / ReVOS, gIoU on ReasonSeg",
        (
            Variant("thinks", ("system.options.think=true",), "55.3 / 61.1 / 69.8"),
            Variant(
                "answers at once", ("system.options.think=false",), "52.6 / 58.9 / 67.2", WORSE
            ),
        ),
    ),
    "calibration": Ablation(
        "videoseg_o3_tiny",
        "VideoSEG-O3's README: J&F of the released 4B model on MeViS / Long-RVOS; ablation "
        "tables of the paper (arXiv 2606.06819) were not read",
        (
            Variant("with", ("mask.calibration=1.0",), "60.0 / 57.4"),
            Variant("without", ("mask.calibration=0",), NOT_READ),
        ),
        settings=("train.steps=25", *SHORT),
    ),
    "turns": Ablation(
        "videoseg_o3_tiny",
        "VideoSEG-O3's README: J&F of the released 4B model on MeViS / Long-RVOS; ablation "
        "tables of the paper (arXiv 2606.06819) were not read",
        (
            Variant("up to 3 turns", ("system.options.max_turns=3",), "60.0 / 57.4"),
            Variant("1 turn", ("system.options.max_turns=1",), NOT_READ),
        ),
        "Long clips: turn 1 sees a shape in one or two of its 16 frames, a later turn five frames "
        "of the requested part. A policy taught on short clips knows neither, nor a frame number "
        "above 23: give as policy.path one that `ray_jobs.warm_start` made with the same settings. "
        "A <select> in the only turn counts as an answer. A target is in a tenth of the frames, so "
        "empty masks have a J&F of 89: tIoU tells more.",
        settings=("train.steps=25", *SHORT, *LONG),
    ),
}


def markdown(
    name: str,
    ablation: Ablation,
    outcomes: Mapping[str, OutcomeBySeed],
) -> str:
    """Return the table of an ablation, finished or not.

    A cell holds mean and standard deviation over the seeds. In brackets follow the mean difference
    to the first variant, over their common seeds, and the verdict on its sign.

    Args:
        name: The name of the ablation.
        ablation: The ablation.
        outcomes: Outcomes by variant and seed.
    """
    first = outcomes.get(ablation.variants[0].name, {})
    measures = measures_of(outcomes)
    head = ["variant", "settings", "published", "seeds", *measures]
    rows = [head, ["---"] * len(head)]
    for variant in ablation.variants:
        runs = outcomes.get(variant.name, {})
        settings = " ".join(f"`{setting}`" for setting in variant.settings) or "-"
        row = [variant.name, settings, variant.published, str(len(runs))]
        row += [_cell(measure, variant, runs, first) for measure in measures]
        rows.append(row)

    words = [ablation.preset, *ablation.settings]
    if ablation.job == "evaluate":
        words.insert(0, "evaluate")
    lines = [f"# {name}: `{' '.join(words)}`", ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", f"Published: {ablation.source}."]
    if ablation.note:
        lines.append(ablation.note)
    return "\n".join(lines) + "\n"


def measures_of(outcomes: Mapping[str, OutcomeBySeed]) -> list[str]:
    """Return the measures of at least one run, in the order of the table."""
    measured: set[str] = set()
    for runs in outcomes.values():
        for run in runs.values():
            measured.update(run)
    return [measure for measure in MEASURES if measure in measured]


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation over seeds; nan for one seed."""
    if len(values) < 2:
        return float("nan")
    return float(np.std(values, ddof=1))


def verdict(differences: Sequence[float], sign: int) -> str:
    """Return whether the differences to the first variant, one a seed, have the published sign.

    "within the spread" if the mean is not larger than the standard deviation. One seed gets no
    verdict.
    """
    if len(differences) == 1:
        return "one seed: no spread"
    mean = float(np.mean(differences))
    if abs(mean) <= spread(differences):
        return "within the spread"
    if np.sign(mean) == sign:
        return "sign as published"
    return "sign NOT as published"


def _cell(
    measure: str,
    variant: Variant,
    runs: OutcomeBySeed,
    first: OutcomeBySeed,
) -> str:
    if not runs:
        return "not run"
    values = {}
    differences = []
    for seed, run in sorted(runs.items()):
        if measure not in run:
            continue
        values[seed] = run[measure]
        reference = first.get(seed, {})
        if measure in reference:
            differences.append(run[measure] - reference[measure])
    if not values:
        return "-"

    decimals = MEASURES[measure]
    cell = f"{np.mean(list(values.values())):.{decimals}f}"
    deviation = spread(list(values.values()))
    if not np.isnan(deviation):
        cell += f" ± {deviation:.{decimals}f}"
    if runs is first or not differences:
        return cell

    difference = f"{np.mean(differences):+.{decimals}f}"
    if measure in variant.signs:
        difference += f", {verdict(differences, variant.signs[measure])}"
    return f"{cell} ({difference})"
