"""Say before a job starts what is missing, how many tokens and how much memory, and where it runs.

    python -m ray_jobs.check revseg_7b policy.path=FOLDER data.root=FOLDER
    python -m ray_jobs.check revseg_7b --job=evaluate --nodes=1 --gib=40 --json

Starts neither Ray nor an engine, and needs no GPU. Options, anywhere on the line:

    --job=JOB      train (default), warm_start, evaluate, segment, prepare or rate_difficulty
    --nodes=8,8    GPUs of each node of the cluster; default: as many nodes of 8 as the job needs
    --gib=79       memory of one GPU in GiB; default: a GPU of 80 GB
    --skip-data    do not read the data set, which can take minutes
    --json         print one JSON object

Exit code 0: nothing is missing or impossible; 1: something is. Tokens are counted on samples with
long queries and the policy's tokenizer; without them they are estimated. Memory is arithmetic and
was not measured on a GPU yet; docs/cluster.md has the formulas.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import systems
from actors.setup import make_system, system_message
from cluster.plan import Job, Kind, Node, Plan, fit, plan_of, plans, room_of, tightest_plan
from configs.load import load as load_config
from configs.load import resolve
from configs.schema import Config
from core.printable import printable
from core.types import Sample, System
from models.families import FAMILIES, Family, family_of
from models.families.sizes import Sizes, config_of_name, sizes_of
from ray_jobs.driver import memory
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.episode_tokens import (
    EpisodeTokens,
    estimating_counter,
    exact_counter,
    longest_episode,
    token_problems,
)
from ray_jobs.driver.on_disk import (
    checkpoint_note,
    has_tokenizer,
    largest,
    problems_on_disk,
    read_data,
    segmenter_bytes,
)

GPUS_A_NODE = 8
GPU_GIB = 79.0
# Samples that tokens are counted on.
COUNTED = 4


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    job: Job = "train"
    nodes: tuple[int, ...] = ()
    gib: float = GPU_GIB
    skip_data: bool = False
    as_json: bool = False


@dataclass
class Report:
    """Everything that was found.

    Attributes:
        title: preset and job.
        problems: what is missing or impossible.
        notes: what is worth knowing.
        tokens: of the longest episode; None if no family is known.
        group_size: episodes that share its first prompt.
        needs: memory of each kind of actor.
        plan: the actors; None if they fit nowhere, or on CPU.
        loads: memory of each GPU in use, by node and number.
    """

    title: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tokens: EpisodeTokens | None = None
    group_size: int = 1
    needs: list[memory.Need] = field(default_factory=list)
    plan: Plan | None = None
    loads: dict[tuple[int, int], memory.Load] = field(default_factory=dict)


def main(argv: Sequence[str]) -> None:
    if "-h" in argv or "--help" in argv:
        # Loading the configuration prints its keys below this, and exits.
        print(__doc__)
    options, words = parse(argv)
    cfg = load_config(words)
    report = check(cfg, options, words[0])
    if options.as_json:
        print(json.dumps(to_json(report), indent=1))
    else:
        print(printable("\n".join(to_text(report))))
    if report.problems:
        sys.exit(1)


def parse(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """Split a command line into options and the arguments of the configuration.

    Raises:
        ValueError: an unknown option or value.
    """
    given: dict[str, Any] = {}
    words = []
    for word in argv:
        name, _, value = word.partition("=")
        if name == "--json":
            given["as_json"] = True
        elif name == "--skip-data":
            given["skip_data"] = True
        elif name == "--job":
            if value not in get_args(Job):
                raise ValueError(f"{word}: give one of {', '.join(get_args(Job))}")
            given["job"] = value
        elif name == "--nodes":
            given["nodes"] = _numbers(word, value)
        elif name == "--gib":
            given["gib"] = float(_numbers(word, value)[0])
        elif name.startswith("--") and name != "--help":
            raise ValueError(f"{word}: no such option; --help lists them")
        else:
            words.append(word)
    return Options(**given), words


def _numbers(word: str, value: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise ValueError(f"{word}: give whole numbers from 1, with commas between")
    return numbers


def check(cfg: Config, options: Options, name: str) -> Report:
    """Check a job with these settings."""
    report = Report(f"{name}: {options.job}", group_size=cfg.rollout.group_size)
    report.problems += problems_on_disk(cfg, options.job)
    samples: dict[str, list[Sample]] = {}
    if not options.skip_data and options.job not in ("segment", "prepare"):
        samples, problems = read_data(cfg, options.job)
        report.problems += problems
    if cfg.data.synthetic and not resolve(cfg.data.root).is_dir():
        report.notes.append(f"data.root={cfg.data.root}: the job makes the synthetic data set")

    config = _config(cfg, report)
    if config is None:
        return report
    family: Family = FAMILIES[config["model_type"]](config)
    sizes = sizes_of(config)
    system = _system(cfg, family, report)
    if system is not None:
        _count(cfg, system, family, samples, report)
    _weigh(cfg, options, sizes, system, report)
    return report


def _config(cfg: Config, report: Report) -> dict[str, Any] | None:
    """Return the policy's `config.json`: of its folder, or of the released model of its name."""
    folder = resolve(cfg.policy.path)
    if (folder / "config.json").is_file():
        try:
            return dict(family_of(folder).config)
        except ValueError as error:
            report.problems.append(str(error))
            return None
    known = config_of_name(cfg.policy.path)
    if known is None:
        report.notes.append("no tokens, memory or placement: the policy's size is not known")
        return None
    report.notes.append(f"sizes of {known[0]}, by the name in policy.path")
    return known[1]


def _system(cfg: Config, family: Family, report: Report) -> System | None:
    try:
        if (resolve(cfg.policy.path) / "config.json").is_file():
            return make_system(cfg)
        return systems.make(cfg.system.name, dict(cfg.system.options), family.vision)
    except ValueError as error:
        report.problems.append(str(error))
        return None


def _count(
    cfg: Config,
    system: System,
    family: Family,
    samples: dict[str, list[Sample]],
    report: Report,
) -> None:
    """Count tokens, and compare them with the settings."""
    folder = resolve(cfg.policy.path)
    exact = (folder / "config.json").is_file() and has_tokenizer(folder)
    try:
        if exact:
            # Imports transformers, which takes seconds.
            from models.dialogue import load_dialogue

            counter = exact_counter(load_dialogue(folder, system_message(cfg)))
        else:
            given = cfg.policy.system_message
            official = system.system_message or family.chat.system
            message = {"auto": official, "none": ""}.get(given, given)
            counter = estimating_counter(family.vision, message)
        tokens = longest_episode(system, largest(samples, COUNTED), counter, exact)
    except ValueError as error:
        report.problems.append(str(error))
        return
    report.tokens = tokens
    problems = token_problems(cfg, tokens)
    if tokens.samples:
        report.problems += problems
    else:
        # The query of the sample of arithmetic is longer than most.
        report.notes += [f"with a long query: {problem}" for problem in problems]


def _weigh(
    cfg: Config, options: Options, sizes: Sizes, system: System | None, report: Report
) -> None:
    """Compute the memory of every kind of actor, and the placement."""
    if options.job == "train":
        text, fits = checkpoint_note(cfg, sizes, memory.trained_parameters(cfg, sizes))
        (report.notes if fits else report.problems).append(text)
    uses_gpu = cfg.cluster.use_gpu == "yes" or (cfg.cluster.use_gpu == "auto" and options.nodes)
    if not uses_gpu:
        report.notes.append(
            f"placement: on CPU (cluster.use_gpu={cfg.cluster.use_gpu}); all actors share the cores"
        )
        return

    needs = _needs(cfg, options, sizes, system)
    nodes = _nodes(cfg, options)
    try:
        plan = plan_of(cfg, options.job, nodes)
    except ValueError as error:
        report.problems.append(str(error))
        plan = next(plans(cfg, options.job))
        report.needs = [needs[kind] for kind in needs if plan.count(kind)]
        return
    report.plan = plan
    report.title += f" on {room_of(nodes)} of {options.gib:g} GiB"
    report.needs = [needs[kind] for kind in needs if plan.count(kind)]
    _load(cfg, options, nodes, needs, report)


def _needs(
    cfg: Config, options: Options, sizes: Sizes, system: System | None
) -> dict[Kind, memory.Need]:
    """Return the memory of an actor of every kind."""
    weights = segmenter_bytes(cfg)
    return {
        "rollout": memory.engine_need(cfg, sizes, options.gib),
        "learner": memory.learner_need(cfg, sizes, weights),
        "reward": memory.reward_need(system, weights),
        "segmenter": memory.segmenter_need(weights),
        "drawer": memory.drawer_need(cfg, sizes, weights),
        "judge": memory.segmenter_need(weights),
    }


def _load(
    cfg: Config,
    options: Options,
    nodes: Sequence[Node],
    needs: dict[Kind, memory.Need],
    report: Report,
) -> None:
    """Add up the memory of every GPU of the report's plan."""
    plan = report.plan
    assert plan is not None, "the plan was set before"
    spots = fit(plan, nodes)
    assert spots is not None, "a plan of these nodes fits on them"
    report.loads = memory.loads(plan, spots, needs, cfg, options.gib)
    report.problems += memory.load_problems(cfg, report.loads)
    engines = plan.count("rollout")
    if engines not in (0, cfg.rollout.first_workers) and options.job != "segment":
        report.notes.append(
            f"plays with {engines} of rollout.workers={cfg.rollout.first_workers} engines"
        )


def _nodes(cfg: Config, options: Options) -> list[Node]:
    """Return the nodes given, or the fewest nodes of 8 GPUs with room for every actor."""
    if options.nodes:
        return [Node(gpus) for gpus in options.nodes]
    tight = tightest_plan(cfg, options.job)
    nodes = [Node(GPUS_A_NODE)]
    while fit(tight, nodes) is None and len(nodes) < len(tight.bundles):
        nodes.append(Node(GPUS_A_NODE))
    return nodes


# --- output


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as plain data."""
    found: dict[str, Any] = {
        "title": report.title,
        "ok": not report.problems,
        "problems": report.problems,
        "notes": report.notes,
    }
    if report.tokens is not None:
        tokens = report.tokens
        turns = []
        for turn in tokens.turns:
            turns.append({"text": turn.text, "visual": turn.visual, "answer": turn.answer})
        found["tokens"] = {
            "exact": tokens.exact,
            "samples": tokens.samples,
            "turns": turns,
            "episode": tokens.total,
            "group": tokens.row(report.group_size),
        }
    found["memory_gib"] = {need.actor: _need_json(need) for need in report.needs}
    if report.plan is not None:
        found["placement"] = {
            "plan": str(report.plan),
            "gpus": report.plan.gpus,
            "whole_gpus": report.plan.whole_gpus,
            "on": [_load_json(place, load) for place, load in report.loads.items()],
        }
    return found


def _need_json(need: memory.Need) -> dict[str, Any]:
    parts = {part.what: round(part.gib, 2) for part in need.parts}
    return {"total": round(need.gib, 2), "parts": parts, "note": need.note}


def _load_json(place: tuple[int, int], load: memory.Load) -> dict[str, Any]:
    node, gpu = place
    return {"node": node, "gpu": gpu, "actors": load.actors, "gib": round(load.gib, 1)}


def to_text(report: Report) -> Iterator[str]:
    """Yield the lines of the report."""
    yield report.title
    yield "\nmissing or impossible"
    for problem in report.problems:
        yield f"  {problem}"
    if not report.problems:
        yield "  nothing"
    if report.tokens is not None:
        yield from _tokens_text(report.tokens, report.group_size)
    if report.needs:
        yield "\nmemory of an actor, GiB (arithmetic, not measured)"
        for need in report.needs:
            yield from _need_text(need)
    if report.plan is not None:
        yield "\nplacement"
        yield f"  {report.plan} = {report.plan.gpus:g}, on {report.plan.whole_gpus} GPUs"
        for (node, gpu), load in report.loads.items():
            yield f"  node {node} GPU {gpu}  {load.gib:5.1f} of {load.limit:g}  {load.actors}"
    if report.notes:
        yield "\nnotes"
        for note in report.notes:
            yield f"  {note}"


def _tokens_text(tokens: EpisodeTokens, group_size: int) -> Iterator[str]:
    how = "counted" if tokens.exact else "estimated, no tokenizer"
    whose = (
        f"{tokens.samples} samples with long queries" if tokens.samples else "no data: any video"
    )
    yield f"\ntokens ({how}; {whose})"
    for number, turn in enumerate(tokens.turns, 1):
        yield (
            f"  turn {number}     {turn.prompt:6d} prompt ({turn.visual} of {turn.images} images) "
            f"+ answer of {turn.answer}"
        )
    yield f"  episode    {tokens.total:6d} with full answers (rollout.max_model_len)"
    row = tokens.row(group_size)
    yield f"  group      {row:6d} with {group_size} episodes (learner.row_tokens)"


def _need_text(need: memory.Need) -> Iterator[str]:
    yield f"  {need.gib:5.1f}  {need.actor}"
    for part in need.parts:
        yield f"         {part.gib:5.1f}  {part.what}"
    if need.note:
        yield f"                {need.note}"


if __name__ == "__main__":
    run_job(main)
