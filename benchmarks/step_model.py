"""The seconds of a training step on GPUs by arithmetic, and the share of time that they are busy.

    python -m benchmarks.step_model [PRESET key=value ...] [--answer 0.25] [--run runs/NAME]

Counts the FLOPs of a step from the preset and the policy's sizes, and divides them by assumed
figures: `--tflops` (reached by learning and prefill), `--hbm` (reached by decoding, TB/s), `--host`
(weights through shared memory, GB/s), `--nccl` and `--ipc` (GB/s). `--answer` is the mean length of
an answer as a share of its budget. With `--run` the seconds of playing and learning are those that
this run has measured in its layout, scaled to the others. Prints the preset as it is, all ways to
split its GPUs between playing and learning, and both on the same GPUs, best first.

Left out: launches, communication of the ranks, the first group's way through an engine, and
whatever the driver does. Without a run nothing here is measured.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measuring import argument_parser
from cluster.plan import Node, fit, plans
from configs.load import load as load_config
from configs.load import resolve
from configs.schema import Config
from models.families.sizes import Sizes, config_of_name, sizes_of
from models.prompt_tokens import PromptTokens
from ray_jobs.check import Options, check
from ray_jobs.driver.memory import BYTES

# Steps of a run at its end whose seconds count.
MEASURED_STEPS = 20
LAYOUTS_SHOWN = 6


@dataclass(frozen=True)
class Machine:
    """What a GPU and its node reach.

    Attributes:
        flops: a second, in learning and in prefill.
        hbm: bytes a second that decoding reads.
        host: bytes a second of weights from the learner to all engines through shared memory,
            both ways over PCIe included.
        nccl, ipc: the same of the GPU backends.
        sleep_s: seconds for an engine to fall asleep and wake.
    """

    flops: float = 400e12
    hbm: float = 2.9e12
    host: float = 4e9
    nccl: float = 50e9
    ipc: float = 200e9
    sleep_s: float = 2.0


@dataclass(frozen=True)
class Work:
    """What a step has to do, wherever it is done.

    Attributes:
        learn: FLOPs of the learner.
        last: FLOPs of the learner's last row, which nothing hides.
        prefill: FLOPs of the engines for prompts.
        steps: decoding steps of all episodes, one after another.
        weight_bytes: the policy.
        kv_bytes: KV cache that one decoding step of one episode reads.
    """

    learn: float
    last: float
    prefill: float
    steps: float
    weight_bytes: float
    kv_bytes: float


@dataclass(frozen=True)
class Layout:
    """GPUs of a job.

    Attributes:
        engines: engines, of `tensor_parallel` GPUs each.
        ranks: learner ranks; on the engines' GPUs if `together`.
        gpus: all GPUs, those of segmenters included.
    """

    engines: int
    ranks: int
    gpus: int
    together: bool = False
    tensor_parallel: int = 1

    def __str__(self) -> str:
        if self.together:
            return f"{self.ranks} play, then learn"
        return f"{self.engines * self.tensor_parallel} play, {self.ranks} learn"


@dataclass(frozen=True)
class Step:
    """Seconds of a step.

    Attributes:
        play, learn: each side by itself.
        publish: the way of the weights.
        whole: the step.
        busy: share of the time that the GPUs work.
    """

    play: float
    learn: float
    publish: float
    whole: float
    busy: float


# --- arithmetic


def layer_parameters(sizes: Sizes) -> int:
    """Return the weights of all decoder layers, which every token is multiplied with."""
    queries = sizes.heads * sizes.head_dim
    keys = sizes.kv_heads * sizes.head_dim
    attention = 2 * sizes.hidden * queries + 2 * sizes.hidden * keys
    return sizes.layers * (attention + 3 * sizes.hidden * sizes.mlp)


def forward(sizes: Sizes, tokens: float, pairs: float, patches: float) -> tuple[float, float]:
    """Return the FLOPs of language model and vision tower in one forward pass.

    Args:
        tokens: tokens of the language model.
        pairs: pairs of a token and one that it attends to.
        patches: patches of its images.
    """
    width = sizes.heads * sizes.head_dim
    language = 2 * layer_parameters(sizes) * tokens + 4 * sizes.layers * width * pairs
    return language, 2.0 * sizes.vision * patches


def attended(prompt: float, branches: Sequence[float]) -> float:
    """Return the pairs of attention in a tree: a causal prompt, and branches that see it."""
    pairs = prompt**2 / 2
    for branch in branches:
        pairs += branch * prompt + branch**2 / 2
    return pairs


def work_of(cfg: Config, sizes: Sizes, turns: Sequence[PromptTokens], answer: float) -> Work:
    """Count a step.

    Args:
        turns: tokens of an episode, with the budgets of its answers.
        answer: mean share of these budgets.
    """
    prompts = cfg.rollout.prompts_per_step
    group = cfg.rollout.group_size
    first = turns[0].prompt
    sampled = answer * sum(turn.answer for turn in turns)
    asked = sum(turn.prompt for turn in turns[1:])
    # The images of the first prompt are encoded once a group, those of later turns may differ.
    images = turns[0].visual + group * sum(turn.visual for turn in turns[1:])
    patches = sizes.merged * images

    branch = asked + sampled
    pairs = attended(first, [branch] * group)
    language, vision = forward(sizes, first + group * branch, pairs, patches)
    learn = prompts * learned(cfg, language, vision)
    rows = prompts * (first + group * branch) / cfg.learner.row_tokens

    pairs = attended(first, [float(asked)] * group)
    language, vision = forward(sizes, first + group * asked, pairs, patches)
    size = BYTES[cfg.policy.dtype]
    context = first + asked + sampled / 2
    return Work(
        learn=learn,
        last=learn / max(rows, 1.0),
        prefill=prompts * (language + vision),
        steps=prompts * group * sampled,
        weight_bytes=sizes.parameters * size,
        kv_bytes=sizes.kv_values * size * context,
    )


def learned(cfg: Config, language: float, vision: float) -> float:
    """Return the FLOPs of learning what one forward pass costs so much for.

    Backward costs twice as much as forward, and checkpointing one more forward pass.
    """
    passes = 4 if cfg.learner.gradient_checkpointing else 3
    trains_vision = not cfg.learner.freeze_vision and cfg.learner.lora_rank == 0
    total = passes * language + (passes if trains_vision else 1) * vision
    total *= cfg.learner.optimizer_steps
    if cfg.grpo.kl_coef > 0:
        total += language + vision
    return total


def play_seconds(work: Work, engines: int, gpus: int, together: int, machine: Machine) -> float:
    """Return the seconds of playing a step.

    Args:
        gpus: of each engine.
        together: episodes that an engine decodes at once.
    """
    read = work.weight_bytes + together * work.kv_bytes
    decode = work.steps / together * read / machine.hbm
    return (decode + work.prefill / machine.flops) / (engines * gpus)


def publish_seconds(work: Work, backend: str, machine: Machine) -> float:
    """Return the seconds of the weights' way to all engines."""
    speeds = {"object_store": machine.host, "nccl": machine.nccl, "ipc": machine.ipc}
    return work.weight_bytes / speeds[backend]


def step_of(
    layout: Layout, play: float, learn: float, last: float, publish: float, sleep_s: float
) -> Step:
    """Return the step: the longer side and a tail, or one side after the other.

    Args:
        last: seconds of the last row, on one rank.
    """
    if layout.together:
        whole = play + learn + publish + sleep_s
    else:
        whole = max(play, learn) + last + publish
    worked = play * layout.engines * layout.tensor_parallel + learn * layout.ranks
    return Step(play, learn, publish, whole, worked / (layout.gpus * whole))


def layouts(cfg: Config) -> Iterator[Layout]:
    """Yield the layout of the settings, then the others that fit on as many GPUs."""
    own = layout_of(cfg)
    yield own
    for engines in range(1, own.gpus):
        for ranks in range(own.gpus, 0, -1):
            split = Layout(engines, ranks, own.gpus, tensor_parallel=own.tensor_parallel)
            if fits(cfg, split):
                if split != own:
                    yield split
                break
    pairs = Layout(own.gpus, own.gpus, own.gpus, together=True)
    if own.tensor_parallel == 1 and pairs != own:
        yield pairs


def fits(cfg: Config, layout: Layout) -> bool:
    """Return whether a layout with separate GPUs has room for every actor of the settings."""
    split = replace(
        cfg,
        rollout=replace(cfg.rollout, workers=layout.engines),
        learner=replace(cfg.learner, world_size=layout.ranks),
        cluster=replace(cfg.cluster, weight_backend="nccl"),
    )
    return fit(next(plans(split, "train")), [Node(layout.gpus)]) is not None


def layout_of(cfg: Config) -> Layout:
    """Return the layout of the settings."""
    return Layout(
        engines=cfg.rollout.first_workers,
        ranks=cfg.learner.world_size,
        gpus=list(plans(cfg, "train"))[-1].whole_gpus,
        together=cfg.cluster.weight_backend == "ipc",
        tensor_parallel=cfg.rollout.tensor_parallel,
    )


@dataclass(frozen=True)
class Measured:
    """Mean seconds of a run's steps, in its own layout."""

    play: float
    learn: float


def model(
    cfg: Config, layout: Layout, work: Work, machine: Machine, measured: Measured | None = None
) -> Step:
    """Return the step of a layout.

    Args:
        measured: seconds in the layout of the settings, in the place of assumed ones.
    """
    own = layout_of(cfg)
    gpus = layout.engines * layout.tensor_parallel
    if measured is None:
        together = min(cfg.rollout.max_num_seqs, episodes_of(cfg) // layout.engines or 1)
        play = play_seconds(work, layout.engines, layout.tensor_parallel, together, machine)
        learn = work.learn / machine.flops / layout.ranks
    else:
        play = measured.play * own.engines * own.tensor_parallel / gpus
        learn = measured.learn * own.ranks / layout.ranks
    # The share of the last row is the same, however fast it is.
    last = learn * layout.ranks * work.last / work.learn
    backend = "ipc" if layout.together else cfg.cluster.weight_backend
    if backend == "ipc" and not layout.together:
        backend = "nccl"
    publish = publish_seconds(work, backend, machine)
    return step_of(layout, play, learn, last, publish, machine.sleep_s)


def episodes_of(cfg: Config) -> int:
    return cfg.rollout.prompts_per_step * cfg.rollout.group_size


# --- figures of a run, and the output


def measured_of(folder: Path) -> Measured:
    """Return the mean seconds of the last steps of a run.

    Raises:
        ValueError: no step of it tells its seconds.
    """
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    steps = [json.loads(line) for line in lines[-MEASURED_STEPS:]]
    steps = [step for step in steps if "balance/play_s" in step]
    if not steps:
        raise ValueError(f"{file}: no step with balance/play_s; give the folder of a run")
    play = statistics.mean(step["balance/play_s"] for step in steps)
    learn = statistics.mean(step["balance/learn_s"] for step in steps)
    return Measured(play, learn)


def sizes_of_policy(cfg: Config) -> Sizes:
    """Return the policy's sizes, from its folder or by its name.

    Raises:
        ValueError: neither is known.
    """
    file = resolve(cfg.policy.path) / "config.json"
    if file.is_file():
        return sizes_of(json.loads(file.read_text()))
    known = config_of_name(cfg.policy.path)
    if known is None:
        raise ValueError(f"policy.path={cfg.policy.path}: no such folder, and no known model")
    return sizes_of(known[1])


def rows(cfg: Config, work: Work, machine: Machine, measured: Measured | None) -> Iterator[str]:
    """Yield the rows of the table: the settings' layout, then the best others."""
    own, *others = layouts(cfg)
    found = [(layout, model(cfg, layout, work, machine, measured)) for layout in others]
    found.sort(key=lambda pair: pair[1].whole)
    ordered = [(own, model(cfg, own, work, machine, measured)), *found[: LAYOUTS_SHOWN - 1]]
    for layout, step in ordered:
        mark = " (as set)" if layout == own else ""
        yield (
            f"| {layout}{mark} | {step.play:.1f} | {step.learn:.1f} | {step.publish:.1f} "
            f"| {step.whole:.1f} | {step.busy:.0%} |"
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    default = Machine()
    parser.add_argument("settings", nargs="*", default=["revseg_7b"], help="preset and key=value")
    parser.add_argument("--answer", type=float, default=0.25)
    parser.add_argument("--run", type=Path, help="folder of a run with this preset")
    parser.add_argument("--tflops", type=float, default=default.flops / 1e12)
    parser.add_argument("--hbm", type=float, default=default.hbm / 1e12)
    parser.add_argument("--host", type=float, default=default.host / 1e9)
    parser.add_argument("--nccl", type=float, default=default.nccl / 1e9)
    parser.add_argument("--ipc", type=float, default=default.ipc / 1e9)
    options = parser.parse_args(argv)
    machine = replace(
        default,
        flops=1e12 * options.tflops,
        hbm=1e12 * options.hbm,
        host=1e9 * options.host,
        nccl=1e9 * options.nccl,
        ipc=1e9 * options.ipc,
    )
    cfg = load_config(options.settings)
    tokens = check(cfg, Options(skip_data=True), options.settings[0]).tokens
    assert tokens is not None, "a known policy has a tokenizer, or text is estimated"
    work = work_of(cfg, sizes_of_policy(cfg), tokens.turns, options.answer)
    measured = None if options.run is None else measured_of(options.run)

    how = "assumed" if measured is None else f"measured by {options.run}"
    print(f"{options.settings[0]}: {episodes_of(cfg)} episodes a step, figures {how}")
    print(f"learn {work.learn:.2e} FLOP, prefill {work.prefill:.2e} FLOP, {work.steps:.2e} tokens")
    print("| GPUs | play, s | learn, s | publish, s | step, s | GPUs busy |")
    print("|---|---|---|---|---|---|")
    for row in rows(cfg, work, machine, measured):
        print(row)


if __name__ == "__main__":
    main()
