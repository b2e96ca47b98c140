"""The ablations of all systems as one literal table, and the Markdown table that comes out of their runs.

A variant is a list of settings on top of a preset. The first variant of an ablation is the one that the others are
compared with; `published` and `signs` say what the paper found. What all variants of an ablation share makes its table
small enough for two CPU cores; it belongs to the tiny preset and goes with it where another one is given.
This file starts nothing and reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

MEASURES = {  # of a run -> decimals
    "J&F": 1,  # greedy, test split, after training
    "sampled J&F": 1,
    "gain": 1,  # of greedy J&F by training
    "tIoU": 1,  # percent, of the part of the video that an episode names, over the last steps, where it is counted
    "turns": 2,  # of an episode, over the last steps
    "tokens": 1,  # of an episode's answers, over the last steps
    "reasoning tokens": 1,  # of these, where the system counts them
}
Outcome = Mapping[str, float]  # measure -> value of one run; a measure may be missing


@dataclass(frozen=True)
class Variant:
    name: str
    settings: tuple[str, ...] = ()
    published: str = ""  # or NOT_PUBLIC, then without signs
    signs: Mapping[str, int] = field(
        default_factory=dict
    )  # measure -> published sign of (this - first variant)


@dataclass(frozen=True)
class Ablation:
    preset: str
    source: str  # of the published numbers, and what they are
    variants: tuple[Variant, ...]
    note: str = ""
    settings: tuple[str, ...] = ()  # of all variants, with this preset
    job: Literal["train", "evaluate"] = (
        "train"  # evaluate: the variants differ in how a policy is used
    )


WORSE = {"J&F": -1, "sampled J&F": -1}
NOT_PUBLIC = "not public"
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
        "The shipped tiny policy was taught two rounds, so one round starts from a form that it does not know.",
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
        settings=("train.steps=10", *SHORT),  # the shipped policy was taught all five forms
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
        "The sampler is not trained, so one policy is evaluated with each: policy.path, by default the shipped one.",
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
        "VideoSEG-O3's README: J&F of the released 4B model on MeViS / Long-RVOS; no ablation table is public",
        (
            Variant("with", ("mask.calibration=1.0",), "60.0 / 57.4"),
            Variant("without", ("mask.calibration=0",), NOT_PUBLIC),
        ),
        settings=("train.steps=25", *SHORT),
    ),
    "turns": Ablation(
        "videoseg_o3_tiny",
        "VideoSEG-O3's README: J&F of the released 4B model on MeViS / Long-RVOS; no ablation table is public",
        (
            Variant("up to 3 turns", ("system.options.max_turns=3",), "60.0 / 57.4"),
            Variant("1 turn", ("system.options.max_turns=1",), NOT_PUBLIC),
        ),
        "Long clips: turn 1 sees a shape in one or two of its 16 frames, a later turn five frames of the part that was "
        "asked for. A policy taught on short clips knows neither, nor a frame number above 23: give as policy.path one "
        "that `ray_jobs.warm_start` made with the same settings. A <select> in the only turn counts as an answer. A "
        "target is in a tenth of the frames, so empty masks have a J&F of 89: tIoU tells more.",
        settings=("train.steps=25", *SHORT, *LONG),
    ),
}


def markdown(name: str, ablation: Ablation, outcomes: Mapping[str, Mapping[int, Outcome]]) -> str:
    """The table of an ablation, also of one that is not finished.

    Args:
        outcomes: of each variant, by seed.

    Of a measure: mean and standard deviation over the seeds; behind it the mean difference to the first variant over
    the seeds that both have, and whether its sign is the published one ("within the spread": not larger than the
    standard deviation of the differences). A single seed gets no verdict.
    """
    first = outcomes.get(ablation.variants[0].name, {})
    found = [
        m for m in MEASURES if any(m in run for runs in outcomes.values() for run in runs.values())
    ]
    head = ["variant", "settings", "published", "seeds", *found]
    rows = [head, ["---"] * len(head)]
    for variant in ablation.variants:
        runs = outcomes.get(variant.name, {})
        cells = [_cell(measure, variant, runs, first) for measure in found]
        settings = " ".join(f"`{setting}`" for setting in variant.settings) or "-"
        rows.append([variant.name, settings, variant.published, str(len(runs)), *cells])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    tail = [f"Published: {ablation.source}.", *([ablation.note] if ablation.note else [])]
    what = " ".join(
        ["evaluate"] * (ablation.job == "evaluate") + [ablation.preset, *ablation.settings]
    )
    return "\n".join([f"# {name}: `{what}`", "", *lines, "", *tail]) + "\n"


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; nan for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def verdict(differences: Sequence[float], sign: int) -> str:
    """Whether differences to the first variant, one a seed, have the published sign."""
    mean = float(np.mean(differences))
    wide = spread(differences)
    if len(differences) == 1:
        return "one seed: no spread"
    if abs(mean) <= wide:
        return "within the spread"
    return "sign as published" if np.sign(mean) == sign else "sign NOT as published"


def _cell(
    measure: str, variant: Variant, runs: Mapping[int, Outcome], first: Mapping[int, Outcome]
) -> str:
    values = {seed: run[measure] for seed, run in sorted(runs.items()) if measure in run}
    if not values:
        return "not run" if not runs else "-"
    decimals = MEASURES[measure]
    wide = spread(list(values.values()))
    cell = f"{np.mean(list(values.values())):.{decimals}f}" + (
        "" if np.isnan(wide) else f" ± {wide:.{decimals}f}"
    )
    differences = [
        value - first[seed][measure]
        for seed, value in values.items()
        if measure in first.get(seed, {})
    ]
    if runs is first or not differences:
        return cell
    cell += f" ({np.mean(differences):+.{decimals}f}"
    if measure in variant.signs:
        cell += f", {verdict(differences, variant.signs[measure])}"
    return cell + ")"
