"""What a job needs on disk, looked for without loading a model: the first half of `ray_jobs.check`.

Every problem is one line with setting, path and remedy, as the job itself would raise it, but all
of them at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from actors.splits import MIX, read_set, read_split, training_split
from cluster.plan import Job
from configs.load import missing_paths, resolve, wrong_values
from configs.schema import Config
from core.segmenters import KINDS
from core.types import Sample
from data.hints import hints_file
from data.holdout import HOLDOUT
from data.prepare.keep import keep_samples
from models.families.sizes import Sizes
from models.segmenters.sam2_files import FILES

# Any one group of these files is a tokenizer.
TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})
PROCESSORS = {"preprocessor_config.json", "processor_config.json"}
INDEX = "model.safetensors.index.json"
MASK_HEAD = "mask_head"
# Jobs without a data set of the configuration, and jobs with a policy that is played or learned.
NO_DATA: tuple[Job, ...] = ("segment",)


def problems_on_disk(cfg: Config, job: Job) -> list[str]:
    """Return what is wrong or missing, apart from the contents of data sets."""
    found = list(wrong_values(cfg))
    for problem in missing_paths(cfg):
        if not (job in NO_DATA and problem.startswith("data.root=")):
            found.append(problem)
    folder = resolve(cfg.policy.path)
    if (folder / "config.json").is_file():
        found += policy_problems(cfg, folder)
    found += _data_files(cfg)
    return found


def policy_problems(cfg: Config, folder: Path) -> Iterator[str]:
    """Yield the files that a policy's folder lacks."""
    where = f"policy.path={cfg.policy.path}"
    if not has_tokenizer(folder):
        yield f"{where}: no tokenizer.json, nor vocab.json with merges.txt; copy the folder anew"
    if not any((folder / name).is_file() for name in PROCESSORS):
        yield f"{where}: no preprocessor_config.json; copy it from the policy's base model"
    missing = missing_weights(folder)
    if missing:
        listed = ", ".join(missing[:3])
        yield f"{where}: weights are missing: {listed} ({len(missing)} files); copy them anew"
    if cfg.mask.token and not cfg.mask.fresh and not (folder / MASK_HEAD).is_dir():
        yield (
            f"{where}: no folder {MASK_HEAD}, but mask.token={cfg.mask.token} draws with it; "
            "ray_jobs.warm_start trains one"
        )


def has_tokenizer(folder: Path) -> bool:
    """Return True if the files of a tokenizer are in a folder."""
    present = {file.name for file in folder.iterdir()}
    return any(names <= present for names in TOKENIZERS)


def missing_weights(folder: Path) -> list[str]:
    """Return the names of weight files that a folder lacks."""
    index = folder / INDEX
    if not index.is_file():
        return [] if list(folder.glob("*.safetensors")) else ["model.safetensors"]
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return [INDEX]
    return sorted(name for name in names if not (folder / name).is_file())


def _data_files(cfg: Config) -> Iterator[str]:
    """Yield files beside the data sets that settings name and that do not exist."""
    keep = cfg.data.keep_file
    if keep and not Path(keep).is_file():
        yield f"data.keep_file={keep}: no such file; `ray_jobs.prepare` with step filter makes it"
    for key, sets in (("data.sets", cfg.data.sets), ("evaluate.sets", cfg.evaluate.sets)):
        for index, each in enumerate(sets):
            if each.keep_file and not Path(each.keep_file).is_file():
                yield f"{key}[{index}].keep_file={each.keep_file}: no such file"
    if cfg.data.hints:
        split = cfg.data.test_split
        file = hints_file(Path(cfg.data.hints), split)
        if not file.is_file():
            yield f"data.hints={cfg.data.hints}: there is no {file.name}; a training run makes it"


def splits_of(cfg: Config, job: Job) -> list[str]:
    """Return the splits that a job reads, in its order; without those of `evaluate.sets`."""
    data = cfg.data
    splits: list[str] = []
    if job in ("train", "warm_start"):
        splits.append(training_split(cfg))
    if job == "train" or (job == "evaluate" and not cfg.evaluate.sets):
        splits.append(data.test_split)
    if job == "train" and cfg.train.eval_every:
        splits.append(data.eval_split)
    return list(dict.fromkeys(splits))


def read_data(cfg: Config, job: Job) -> tuple[dict[str, list[Sample]], list[str]]:
    """Read the splits of a job as the job itself does; return them, and what is wrong.

    A folder that does not exist is left out: `problems_on_disk` has it, or the job makes it.
    """
    samples: dict[str, list[Sample]] = {}
    problems: list[str] = []
    for split in splits_of(cfg, job):
        mixed = split == MIX or (split == HOLDOUT and bool(cfg.data.sets))
        roots = [each.root for each in cfg.data.sets] if mixed else [cfg.data.root]
        if not all(resolve(root).is_dir() for root in roots):
            continue
        try:
            samples[split] = read_split(cfg, split)
            if cfg.data.keep_file and split == cfg.data.train_split:
                samples[split] = keep_samples(samples[split], Path(cfg.data.keep_file))
        except (ValueError, OSError) as error:
            where = "" if mixed else f"data.root={cfg.data.root}, "
            problems.append(f"{where}split {split}: {error}")
    if job == "evaluate":
        _read_benchmarks(cfg, samples, problems)
    return samples, problems


def _read_benchmarks(cfg: Config, samples: dict[str, list[Sample]], problems: list[str]) -> None:
    """Add the samples of `evaluate.sets`, and what is wrong with them."""
    for index, each in enumerate(cfg.evaluate.sets):
        if not resolve(each.root).is_dir():
            continue
        try:
            samples[each.label] = read_set(cfg, each, f"evaluate.sets[{index}]")
        except (ValueError, OSError) as error:
            problems.append(str(error))


def segmenter_bytes(cfg: Config) -> int:
    """Return the bytes of the segmenter's weights: of its file, else of the official one.

    A missing file is known by its name or by `segmenter.config`; otherwise the largest one counts.
    """
    if not KINDS[cfg.segmenter.kind].needs_weights:
        return 0
    path = resolve(cfg.segmenter.path)
    if path.is_file():
        return path.stat().st_size
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    named = [file for file in FILES if file.name == path.name]
    sized = [file for file in FILES if file.size == cfg.segmenter.config]
    chosen = (named or sized or list(FILES))[-1]
    return int(4e6 * chosen.parameters)


def checkpoint_note(cfg: Config, sizes: Sizes, trained: int) -> tuple[str, bool]:
    """Return the disk that the checkpoints take beside the free disk, and whether it suffices.

    A checkpoint has the policy, fp32 weights and two moments of what is trained.
    """
    size = 2 if cfg.policy.dtype == "bfloat16" else 4
    one = sizes.parameters * size + trained * 12
    kept = cfg.train.keep_checkpoints
    every = cfg.train.checkpoint_every
    if kept == 0:
        kept = 1 + (cfg.train.steps // every if every else 0)
    # `best`, and one that is being written, come on top.
    total = one * (kept + 2)
    folder = _existing(Path(cfg.runs))
    free = shutil.disk_usage(folder).free
    text = (
        f"checkpoints: {one / 1e9:.1f} GB each, up to {kept + 2} at a time = {total / 1e9:.0f} GB; "
        f"{free / 1e9:.0f} GB are free at runs={cfg.runs}"
        + ("" if total <= free else ": give another `runs`, or lower train.keep_checkpoints")
    )
    return text, total <= free


def _existing(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def largest(samples: dict[str, list[Sample]], count: int) -> Sequence[Sample]:
    """Return the samples with the longest queries, to count tokens of."""
    everything: list[Sample] = []
    for split_samples in samples.values():
        everything += split_samples
    everything.sort(key=lambda sample: -len(sample.query))
    return everything[:count]
