"""Checks a data set, lists all that is wrong with it at once, and makes what training wants of it.

    python -m ray_jobs.prepare data.format=mevis data.root=/data/mevis valid_u
    python -m ray_jobs.prepare revseg_tiny "prepare.steps=[filter]" train

Words without `=` after the preset are splits; without any, those of the configuration that are there. Steps, by
`prepare.steps`:

    check        annotations, every frame, every mask                    report.json
    tables       boxes, areas, centre points                             tables.npz
    filter       labels that the segmenter gets from their true boxes    keep.json, for data.keep_file
    statistics                                                           statistics.json
    sheet        some sentences with their frames and masks              contact_sheet.jpg
    mixing       probabilities of several prepared splits                mixing.json

Files go to <data.root>/prepared/<split>/, or below `prepare.output`. A job that was killed goes on where it was. The
exit code is 1 if anything is wrong, and 0 if not, also where something is odd.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from actors.prepare import pieces
from cluster.placement import Placement
from cluster.start import joined
from configs.load import load as load_config
from configs.load import resolve, validate_values
from configs.schema import Config
from core.files import write_json
from data.generators import generator
from data.mixing import by_temperature, epochs_of, shares
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.prepare_steps import STEPS, Split
from ray_jobs.record.progress import Progress

SHOWN = 200  # problems that are printed; report.json has all
PRESET = "prepare"  # where the command line names none


def main(argv: Sequence[str]) -> None:
    settings, named = arguments(argv)
    if {"-h", "--help"} & set(settings):
        print(__doc__)
    cfg = load_config(settings)
    validate_values(cfg)
    if cfg.data.synthetic:
        generator().make(Path(cfg.data.root), cfg.data.length)
    splits = [] if cfg.prepare.steps == ["mixing"] else named or splits_of(cfg)
    _check_paths(cfg, splits)
    # No rollout and no learner will ask for a GPU.
    cfg = replace(
        cfg, rollout=replace(cfg.rollout, workers=0), learner=replace(cfg.learner, world_size=0)
    )
    wrong = 0
    with Progress.open(0, f"prepare · {cfg.data.format} · {cfg.data.root}") as progress:
        if splits:
            wrong = prepare_splits(cfg, splits, progress)
        if "mixing" in cfg.prepare.steps:
            mixing(cfg, progress)
    if wrong:
        sys.exit(1)


def arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line as (what the configuration reads, splits)."""
    flags = [word for word in argv if word.startswith("-")]
    words = [word for word in argv if not word.startswith("-")]
    preset = words[:1] if words and "=" not in words[0] else []
    rest = words[len(preset) :]
    settings = [*(preset or [PRESET]), *(word for word in rest if "=" in word), *flags]
    return settings, [word for word in rest if "=" not in word]


def splits_of(cfg: Config) -> list[str]:
    """The splits that the configuration names and that have a folder; the first of them if none has."""
    named = list(dict.fromkeys([cfg.data.train_split, cfg.data.eval_split, cfg.data.test_split]))
    return [name for name in named if (Path(cfg.data.root) / name).is_dir()] or named[:1]


def prepare_splits(cfg: Config, names: Sequence[str], progress: Progress) -> int:
    """The number of things that are wrong with all of them together."""
    with joined(cfg, progress.phase("start: Ray")) as placement:
        return sum([prepare_split(cfg, placement, name, progress) for name in names])


def prepare_split(cfg: Config, placement: Placement, name: str, progress: Progress) -> int:
    """All steps of a split; the number of things that are wrong."""
    split = Split(cfg, placement, name, output(cfg) / name, progress)
    split.folder.mkdir(parents=True, exist_ok=True)
    with progress.phase(f"{name}: annotations"):
        split.read()
    for step in [step for step in STEPS if step in cfg.prepare.steps]:
        if split.samples or step == "check":
            STEPS[step](split)
        else:
            progress.note(f"{name}: {step} is left out: no annotation can be read")
    return report(split)


def report(split: Split) -> int:
    """Writes report.json and prints the problems; the number of those that are wrong, not only odd."""
    wrong, odd = ([p for p in split.problems if p.odd == is_odd] for is_odd in (False, True))
    file = split.folder / "report.json"
    counts = {"wrong": len(wrong), "odd": len(odd)}
    about = {"format": split.cfg.data.format, "root": split.cfg.data.root, "split": split.name}
    sizes = {"videos": len(pieces(split.samples)), "expressions": len(split.samples)}
    steps = {"steps": list(split.cfg.prepare.steps)}
    write_json(
        file, about | steps | sizes | counts | {"problems": [asdict(p) for p in (*wrong, *odd)]}
    )
    for problem in [*wrong, *odd][:SHOWN]:
        split.progress.note(f"{'odd' if problem.odd else 'wrong'}: {problem.text}")
    more = (
        f", {len(split.problems) - SHOWN} of them not shown here"
        if len(split.problems) > SHOWN
        else ""
    )
    said = ", ".join(f"{count:,} {name}" for name, count in (sizes | counts).items())
    split.progress.note(f"{split.name}: {said}{more}: {file}")
    return len(wrong)


def mixing(cfg: Config, progress: Progress) -> None:
    """mixing.json: how often each of several prepared splits is drawn, by the expressions that their filters left."""
    prepare = cfg.prepare
    sizes = [expressions_of(Path(folder)) for folder in prepare.mix]
    weights_D = (
        shares(prepare.mix_weights)
        if prepare.mix_weights
        else by_temperature(sizes, prepare.mix_temperature)
    )
    epochs_D = epochs_of(100_000, sizes, list(weights_D))
    rows = list(zip(prepare.mix, sizes, weights_D.tolist(), epochs_D.tolist(), strict=True))
    names = ("folder", "expressions", "probability", "epochs_in_100000_draws")
    file = output(cfg) / "mixing.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        file, {"seed": cfg.seed, "sets": [dict(zip(names, row, strict=True)) for row in rows]}
    )
    head = ("", "expressions", "probability", "epochs in 100,000 draws")
    progress.table(
        f"mixing: {file}", [head, *((f, f"{n:,}", f"{w:.3f}", f"{e:.2f}") for f, n, w, e in rows)]
    )


def expressions_of(folder: Path) -> int:
    """Expressions with a target of a prepared split, after its label filter if it has one."""
    for name in ("keep.json", "statistics.json"):
        if (folder / name).is_file():
            return int(json.loads((folder / name).read_text())["expressions_with_target"])
    raise ValueError(
        f"prepare.mix: {folder} has neither keep.json nor statistics.json: prepare that split first"
    )


def output(cfg: Config) -> Path:
    return Path(cfg.prepare.output) if cfg.prepare.output else Path(cfg.data.root) / "prepared"


def _check_paths(cfg: Config, splits: Sequence[str]) -> None:
    """ValueError for what no step could do without, before Ray starts."""
    root = Path(cfg.data.root)
    weights = resolve(cfg.segmenter.path)
    if splits and not root.is_dir():
        raise ValueError(
            f"data.root={cfg.data.root}: no such folder; give the data's folder, or data.synthetic=true"
        )
    if "filter" in cfg.prepare.steps and cfg.segmenter.kind == "sam2" and not weights.exists():
        raise ValueError(
            f"segmenter.path={cfg.segmenter.path}: {weights} does not exist; the step filter needs it"
        )
    try:
        output(cfg).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{output(cfg)}: cannot be written ({error}): choose another prepare.output"
        ) from error


if __name__ == "__main__":
    run_job(main)
