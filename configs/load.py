"""From a command line to a checked `Config`: preset, then `key=value` overrides.

`python -m configs.load revseg_tiny learner.lr=1e-4` prints the resolved configuration; `--help` lists every key.
A preset is a YAML file beside this one (or any YAML path, such as a run folder's `config.yaml`) and may start with
`base: <other preset>`. This file knows names, types and allowed words; it opens no model and no data.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.schema import Config
from core.evaluation.protocols import PROTOCOLS

PRESETS = Path(__file__).parent
REPOSITORY = PRESETS.parent
OPEN_KEYS = (
    "system.options",
)  # below these any key goes; the system's own options dataclass checks them
FORMATS = (  # the readers of data/load.py
    "mevis",
    "revos",
    "lvvis",
    "reasonvos",
    "longrvos",
    "ref_youtube_vos",
    "ref_davis17",
    "reasonseg",
    "refcoco",
    "vts_cot",
    "o3_rl",
    "own",
)
CHOICES = {
    "policy.dtype": ("float32", "bfloat16"),
    "policy.attention": ("auto", "split", "flex"),
    "data.format": FORMATS,
    "data.no_target": ("skip", "keep"),
    "data.length": ("short", "long"),
    "evaluate.protocol": ("auto", *PROTOCOLS),
    "evaluate.resume": ("auto", "never"),
    "grpo.loss": ("grpo", "dual_clip", "gspo", "cispo"),
    "grpo.importance": ("token", "sequence"),
    "grpo.kl_estimator": ("k1", "k2", "k3"),
    "grpo.aggregation": ("token_mean", "sequence_mean", "dr_grpo"),
    "learner.schedule": ("constant", "linear", "cosine"),
    "learner.zero_stage": (0, 1, 2, 3),
    "rollout.max_staleness": (0, 1),
    "segmenter.kind": ("sam2", "sam2_xmem", "grabcut"),
    "difficulty.rater": ("policy", "generator"),
    "cluster.use_gpu": ("auto", "yes", "no"),
    "cluster.weight_backend": ("object_store", "nccl", "ipc"),
}
PREPARE_STEPS = ("check", "tables", "filter", "statistics", "sheet", "mixing")
POSITIVE = (
    "rollout.workers",
    "rollout.prompts_per_step",
    "rollout.max_model_len",
    "rollout.max_num_seqs",
    "rollout.tensor_parallel",
    "rollout.temperature",
    "learner.world_size",
    "learner.row_tokens",
    "learner.optimizer_steps",
    "learner.max_bad_steps",
    "reward.workers",
    "reward.timeout_s",
    "segmenter.workers",
    "train.eval_samples",
    "train.sampled_repeats",
    "warm_start.batch_size",
    "evaluate.chunk",
    "difficulty.attempts",
    "prepare.workers",
    "prepare.sheet_rows",
    "prepare.sheet_frames",
    "prepare.mix_temperature",
)


def load(argv: Sequence[str]) -> Config:
    """The configuration of a command line: a preset name or YAML path, then `key=value`s.

    Raises `ValueError` with key, value, the nearest existing name and the remedy; never returns a half-checked tree.
    `--help` prints every key and leaves.
    """
    if "-h" in argv or "--help" in argv:
        print(help_text())
        raise SystemExit(0)
    if not argv or "=" in argv[0]:
        raise ValueError(
            f"the first argument is a preset or a YAML path; presets: {', '.join(presets())}"
        )
    tree = OmegaConf.structured(Config)
    for source in _chain(_preset_path(argv[0])):
        for key, value in _leaves(_read_yaml(source)):
            if key != "base":
                _set(tree, key, value, str(source))
    for argument in argv[1:]:
        _set(tree, *_split(argument), "command line")
    cfg = cast(Config, OmegaConf.to_object(tree))
    cfg.policy.path = policy_path(cfg.policy.path)
    _check_choices(cfg)
    return cfg


def policy_path(path: str) -> str:
    """The model folder that is meant: `path` itself, or the policy of a checkpoint (checkpoints/step_N) or of a run
    folder (its best). `path` if there is none, which `validate` then tells."""
    inside = [
        part
        for part in ("policy", "best/policy")
        if (resolve(path) / part / "config.json").is_file()
    ]
    return (
        f"{path}/{inside[0]}" if inside and not (resolve(path) / "config.json").is_file() else path
    )


def validate(cfg: Config) -> None:
    """Cross-field checks that need no engine; one `ValueError` that lists every problem, a line each."""
    _tell([*_wrong_numbers(cfg), *_missing_paths(cfg)])


def validate_values(cfg: Config) -> None:
    """As `validate`, without asking for models and data: for jobs that need only some of them."""
    _tell(list(_wrong_numbers(cfg)))


def resolve(path: str) -> Path:
    """A path of the configuration; relative ones are relative to the repository, wherever the process runs."""
    return Path(path).expanduser() if Path(path).expanduser().is_absolute() else REPOSITORY / path


def to_yaml(cfg: Config) -> str:
    """The resolved configuration; `load` reads it back to an equal `Config`."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def presets() -> list[str]:
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def keys() -> dict[str, Any]:
    """Every dotted key of the schema with its default."""
    return dict(_fields(Config()))


def comments() -> dict[str, str]:
    """Dotted key -> the comment beside its field in schema.py, where alone it is documented."""
    source = (PRESETS / "schema.py").read_text()
    lines = source.splitlines()
    classes = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)}

    def walk(name: str, prefix: str) -> Iterator[tuple[str, str]]:
        for node in classes[name].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                kind = ast.unparse(node.annotation)
                key = prefix + node.target.id
                if kind in classes:
                    yield from walk(kind, key + ".")
                else:
                    yield (
                        key,
                        lines[(node.end_lineno or 0) - 1][node.end_col_offset or 0 :]
                        .partition("#")[2]
                        .strip(),
                    )

    return dict(walk("Config", ""))


def help_text() -> str:
    """Usage, presets, and all keys with default and comment."""
    notes = comments()
    defaults = keys()
    width = max(len(f"{k}={v}") for k, v in defaults.items())
    rows = [
        f"  {f'{key}={value}':<{width}}  {notes.get(key, '')}".rstrip()
        for key, value in defaults.items()
    ]
    usage = "usage: python -m ray_jobs.<job> <preset | file.yaml> [key=value ...]"
    return "\n".join(
        [usage, "", f"presets: {', '.join(presets())}", "", "keys, with their defaults:", *rows]
    )


def _fields(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value


def _preset_path(name: str, where: str = "") -> Path:
    """A preset's file, or a YAML path; `where` names the file that asked for it as its base."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name) if Path(name).is_file() else PRESETS / name
    else:
        path = PRESETS / f"{name}.yaml"
    if path.is_file():
        return path
    near = difflib.get_close_matches(name, presets(), n=1)
    hint = f"did you mean {near[0]}?" if near else "give one of these, or the path of a YAML file."
    raise ValueError(f"{where}{name}: no such preset; {hint} Presets: {', '.join(presets())}")


def _chain(path: Path, seen: tuple[Path, ...] = ()) -> list[Path]:
    """The preset and its bases, the deepest base first."""
    if path in seen:
        raise ValueError(
            f"{path.name}: `base` goes in a circle: {' -> '.join(p.name for p in (*seen, path))}"
        )
    base = _read_yaml(path).get("base")
    deeper = _chain(_preset_path(str(base), f"{path.name}: base: "), (*seen, path)) if base else []
    return [*deeper, path]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except (
        Exception
    ) as error:  # the YAML reader has several families of errors; a user wants file and line
        raise ValueError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path}: expected `key: value` lines at the top, found a {type(tree).__name__}"
        )
    return cast(dict[str, Any], tree)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in OPEN_KEYS:
            yield from _leaves(value, key + ".")
        else:
            yield key, value


def _split(argument: str) -> tuple[str, Any]:
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise ValueError(f"{argument}: expected key=value, for example learner.lr=1e-4")
    if text == "":
        return key, ""  # `tracking.mlflow_uri=` is the empty string, not null
    try:
        tree = OmegaConf.from_dotlist([f"value={text}"])
    except Exception as error:
        raise ValueError(f"{key}={text}: not a YAML value: {error}") from error
    value = tree["value"]
    return key, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _set(tree: DictConfig, key: str, value: Any, where: str) -> None:
    known = keys()
    open_parent = next((k for k in OPEN_KEYS if key.startswith(k + ".")), None)
    if open_parent is None and key not in known:
        raise ValueError(f"{where}: {key}: no such key; {_hint(key, known)}")
    if isinstance(known.get(key), str) and isinstance(value, bool):
        value = "yes" if value else "no"  # YAML reads the bare words yes and no as booleans
    try:
        # An open key given as a whole is merged into what a base said, as two sections would be.
        OmegaConf.update(
            tree, key, value, merge=key in OPEN_KEYS, force_add=open_parent is not None
        )
    except OmegaConfBaseException as error:
        kind = type(known.get(key)).__name__
        raise ValueError(
            f"{where}: {key}={value!r}: expected {kind}, such as {known.get(key)!r}"
        ) from error


def _hint(key: str, known: dict[str, Any]) -> str:
    """The nearest existing key, for one that does not exist."""
    inside = [k for k in known if k.startswith(key + ".")]
    if inside:
        return f"{key} is a section; its keys: {', '.join(inside)}"
    same_leaf = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
    leaves = {k.rpartition(".")[2]: k for k in known}
    by_leaf = [leaves[leaf] for leaf in difflib.get_close_matches(key, list(leaves), n=1)]
    near = difflib.get_close_matches(key, [*same_leaf, *known], n=1) or same_leaf[:1] or by_leaf
    return f"did you mean {near[0]}?" if near else "--help lists every key."


def _check_choices(cfg: Config) -> None:
    values = dict(_fields(cfg))
    for key, allowed in CHOICES.items():
        if values[key] in allowed:
            continue
        near = difflib.get_close_matches(str(values[key]), [str(a) for a in allowed], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"{key}={values[key]}: expected one of {' | '.join(str(a) for a in allowed)}{hint}"
        )


def _tell(problems: list[str]) -> None:
    if problems:
        raise ValueError("\n".join(problems))


def _wrong_numbers(cfg: Config) -> Iterator[str]:
    values = dict(_fields(cfg))
    for key in POSITIVE:
        if not values[key] > 0:
            yield f"{key}={values[key]}: must be positive"
    if cfg.rollout.group_size < 2:
        yield f"rollout.group_size={cfg.rollout.group_size}: a group-relative advantage needs at least 2 episodes"
    if not 0 < cfg.rollout.top_p <= 1:
        yield f"rollout.top_p={cfg.rollout.top_p}: must be above 0 and at most 1"
    if not 0 <= cfg.rollout.max_failed_share < 1:
        yield f"rollout.max_failed_share={cfg.rollout.max_failed_share}: must be at least 0 and below 1"
    for key in (
        "train.steps",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.eval_every",
        "rollout.max_staleness",
        "learner.lr",
        "evaluate.samples",
        "segmenter.xmem_size",
        "mask.calibration",
        "mask.loss",
        "mask.bce",
        "mask.dice",
        "mask.points",
        "warm_start.mask_loss",
        "warm_start.mask_bce",
        "warm_start.mask_dice",
        "warm_start.mask_points",
    ):
        if values[key] < 0:
            yield f"{key}={values[key]}: must not be negative"
    if cfg.learner.lora_rank < 0 or (cfg.learner.lora_rank and cfg.learner.lora_alpha <= 0):
        yield f"learner.lora_rank={cfg.learner.lora_rank}, lora_alpha={cfg.learner.lora_alpha}: positive, or rank 0"
    if cfg.grpo.loss == "dual_clip" and cfg.grpo.dual_clip <= 1:
        yield f"grpo.dual_clip={cfg.grpo.dual_clip}: must be above 1"
    if cfg.cluster.use_gpu == "no" and cfg.cluster.weight_backend != "object_store":
        yield f"cluster.weight_backend={cfg.cluster.weight_backend}: needs GPUs; use object_store"
    if cfg.mask.token and cfg.segmenter.kind != "sam2":
        yield f"segmenter.kind={cfg.segmenter.kind}: a policy that draws (mask.token={cfg.mask.token}) needs sam2"
    yield from _wrong_preparation(cfg)
    if not cfg.name or Path(cfg.name).name != cfg.name or cfg.name in (".", ".."):
        yield f"name={cfg.name!r}: must be a plain folder name; put the folder above it in `runs`"


def _wrong_preparation(cfg: Config) -> Iterator[str]:
    prepare = cfg.prepare
    for step in prepare.steps:
        if step not in PREPARE_STEPS:
            near = difflib.get_close_matches(step, PREPARE_STEPS, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            yield f"prepare.steps: {step}: expected some of {', '.join(PREPARE_STEPS)}{hint}"
    if not 0 <= prepare.filter_iou <= 1:
        yield f"prepare.filter_iou={prepare.filter_iou}: an IoU is at least 0 and at most 1"
    if "mixing" in prepare.steps and not prepare.mix:
        yield "prepare.mix=[]: the step mixing needs the folders of at least one prepared split"
    if prepare.mix_weights and len(prepare.mix_weights) != len(prepare.mix):
        numbers = len(prepare.mix_weights)
        yield f"prepare.mix_weights has {numbers} numbers for {len(prepare.mix)} folders of prepare.mix"


def _missing_paths(cfg: Config) -> Iterator[str]:
    policy = resolve(cfg.policy.path)
    root = resolve(cfg.data.root)
    segmenter = resolve(cfg.segmenter.path)
    if not (policy / "config.json").is_file():
        yield f"policy.path={cfg.policy.path}: no config.json in {policy}; give a model, checkpoint or run folder"
    if not root.is_dir() and not cfg.data.synthetic:
        yield f"data.root={cfg.data.root}: {root} does not exist; give the data's folder, or data.synthetic=true"
    if cfg.segmenter.kind in ("sam2", "sam2_xmem") and not segmenter.exists():
        yield f"segmenter.path={cfg.segmenter.path}: {segmenter} does not exist; give a SAM2 checkpoint or its folder"
    for key in ("xmem_path", "xmem_weights") if cfg.segmenter.kind == "sam2_xmem" else ():
        given = str(getattr(cfg.segmenter, key))
        if not given or not resolve(given).exists():
            yield f"segmenter.{key}={given}: does not exist; give a checkout of hkchengrex/XMem, and its XMem.pth"
    resume = cfg.train.resume
    if resume not in ("auto", "never") and not resolve(resume).is_dir():
        yield f"train.resume={resume}: expected auto, never, or an existing checkpoint folder"


if __name__ == "__main__":
    try:
        print(to_yaml(load(sys.argv[1:])), end="")
    except ValueError as error:
        raise SystemExit(str(error)) from None
