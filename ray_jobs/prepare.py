"""Check a data set, list all its errors at once, and make the files for training.

    python -m ray_jobs.prepare data.format=mevis data.root=/data/mevis valid_u
    python -m ray_jobs.prepare revseg_tiny "prepare.steps=[filter]" train

Words without `=` after the preset are splits. Without any, all splits of the configuration with a
folder are prepared, and each set of `data.sets` in its own root.
Steps, by `prepare.steps`:

    check        annotations, every frame, every mask                 report.json
    fit          prompts without room in rollout.max_model_len        report.json
    tables       boxes, areas, centre points                          tables.npz
    filter       IoU of the labels with masks segmented from boxes    keep.json (data.keep_file)
    statistics   counts, sizes, visibility, words                     statistics.json
    sheet        some sentences with their frames and masks           contact_sheet.jpg

Files go to <data.root>/prepared/<split>/, or below `prepare.output`. A killed job continues. The
exit code is 1 if anything is wrong. Oddities alone leave it 0.
"""

from __future__ import annotations

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
from core.segmenters import KINDS
from data.generators import generator
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.prepare_steps import STEPS, PreparedSplit
from ray_jobs.record.progress import Progress

# Problems that are printed; report.json has all.
SHOWN = 200
# The preset of a command line that names none.
PRESET = "prepare"


def main(argv: Sequence[str]) -> None:
    settings, splits = parse_arguments(argv)
    if "-h" in settings or "--help" in settings:
        # Loading the configuration prints its keys below this, and exits.
        print(__doc__)
    cfg = load_config(settings)
    validate_values(cfg)
    if cfg.data.synthetic:
        generator().make(Path(cfg.data.root), cfg.data.length)
    wanted = splits_to_prepare(cfg, splits)
    for own, _ in wanted:
        check_paths(own)
    with Progress.open(0, f"prepare · {cfg.data.format} · {cfg.data.root}") as progress:
        wrong = prepare_splits(cfg, wanted, progress)
    if wrong:
        sys.exit(1)


def parse_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the arguments of the configuration, and the names of splits."""
    flags = [word for word in argv if word.startswith("-")]
    words = [word for word in argv if not word.startswith("-")]
    preset = PRESET
    if words and "=" not in words[0]:
        preset = words.pop(0)
    assignments = [word for word in words if "=" in word]
    splits = [word for word in words if "=" not in word]
    return [preset, *assignments, *flags], splits


def present_splits(cfg: Config) -> list[str]:
    """Return the configured splits with a folder; without any, the first one."""
    data = cfg.data
    root = Path(data.root)
    names = [data.train_split, data.eval_split, data.test_split]
    present = []
    for name in dict.fromkeys(names):
        if (root / name).is_dir():
            present.append(name)
    return present or names[:1]


def splits_to_prepare(cfg: Config, names: Sequence[str]) -> list[tuple[Config, str]]:
    """Return the splits to prepare, each with a configuration for its data set.

    Args:
        names: Splits of `data.root`; without any, the sets of the mix and the present splits.
    """
    if names:
        return [(cfg, name) for name in names]
    wanted = []
    for each in cfg.data.sets:
        data = replace(cfg.data, format=each.format, root=each.root, sets=[])
        output = f"{cfg.prepare.output}/{each.label}" if cfg.prepare.output else ""
        own = replace(cfg, data=data, prepare=replace(cfg.prepare, output=output))
        wanted.append((own, each.split))
    known = {(own.data.root, name) for own, name in wanted}
    for name in present_splits(cfg):
        if (cfg.data.root, name) not in known:
            wanted.append((cfg, name))
    return wanted


def prepare_splits(cfg: Config, wanted: Sequence[tuple[Config, str]], progress: Progress) -> int:
    """Prepare some splits; return the number of errors in them."""
    wrong = 0
    with joined(cfg, "prepare", progress.phase("start: Ray"), progress.note) as placement:
        for own, name in wanted:
            wrong += prepare_split(own, placement, name, progress)
    return wrong


def prepare_split(cfg: Config, placement: Placement, name: str, progress: Progress) -> int:
    """Run all steps on a split; return the number of errors in it."""
    split = PreparedSplit(cfg, placement, name, output_folder(cfg) / name, progress)
    split.folder.mkdir(parents=True, exist_ok=True)
    with progress.phase(f"{name}: annotations"):
        split.read()
    # In the order of STEPS, whatever the order on the command line.
    for step, run_step in STEPS.items():
        if step not in cfg.prepare.steps:
            continue
        if split.samples or step == "check":
            run_step(split)
        else:
            progress.note(f"{name}: {step} is left out: no annotation can be read")
    return report(split)


def report(split: PreparedSplit) -> int:
    """Write report.json and print the problems; return the number of errors, without oddities."""
    wrong = [problem for problem in split.problems if not problem.odd]
    odd = [problem for problem in split.problems if problem.odd]
    problems = wrong + odd
    counts = {
        "videos": len(pieces(split.samples)),
        "expressions": len(split.samples),
        "wrong": len(wrong),
        "odd": len(odd),
    }
    content = {
        "format": split.cfg.data.format,
        "root": split.cfg.data.root,
        "split": split.name,
        "steps": list(split.cfg.prepare.steps),
        **counts,
        "problems": [asdict(problem) for problem in problems],
    }
    file = split.folder / "report.json"
    write_json(file, content)

    for problem in problems[:SHOWN]:
        kind = "odd" if problem.odd else "wrong"
        split.progress.note(f"{kind}: {problem.text}")
    summary = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    if len(problems) > SHOWN:
        summary += f", {len(problems) - SHOWN} of them not shown here"
    split.progress.note(f"{split.name}: {summary}: {file}")
    return len(wrong)


def output_folder(cfg: Config) -> Path:
    if cfg.prepare.output:
        return Path(cfg.prepare.output)
    return Path(cfg.data.root) / "prepared"


def check_paths(cfg: Config) -> None:
    """Check the paths needed by every step, before Ray starts.

    Raises:
        ValueError: A missing or unwritable path.
    """
    if not Path(cfg.data.root).is_dir():
        raise ValueError(
            f"data.root={cfg.data.root}: no such folder; give the data's folder, or "
            "data.synthetic=true"
        )
    weights = resolve(cfg.segmenter.path)
    filters = "filter" in cfg.prepare.steps
    if filters and KINDS[cfg.segmenter.kind].needs_weights and not weights.exists():
        raise ValueError(
            f"segmenter.path={cfg.segmenter.path}: {weights} does not exist; "
            "the step filter needs it"
        )
    output = output_folder(cfg)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{output}: cannot be written ({error}): choose another prepare.output"
        ) from error


if __name__ == "__main__":
    run_job(main)
