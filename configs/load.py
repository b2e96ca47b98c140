"""From a command line to a checked `Config`: a preset, then `key=value` overrides.

`python -m configs.load revseg_tiny learner.lr=1e-4` prints the resolved configuration, and `--help`
lists every key. A preset is a YAML file beside this one, or any YAML path such as a run folder's
`config.yaml`. It may start with `base: <other preset>`. Models and data are not opened here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.places import cached_model, lead_to_files
from configs.schema import Config, SetConfig
from core.segmenters import KINDS, kinds_that_follow_drawn
from core.settings import (
    Bounds,
    Setting,
    bound_problems,
    make_settings,
    mismatch,
    nearest,
    settings_of,
    words_of,
)

PRESETS = Path(__file__).parent
REPOSITORY = PRESETS.parent

# The system's own options dataclass checks the keys below this one.
OPEN_KEY = "system.options"

# Lists of data sets, whose items are checked one by one.
SET_KEYS = ("data.sets", "evaluate.sets")
_ONE_SET = re.compile(r"(?P<key>[\w.]+)\[(?P<index>\d+)\]\.(?P<name>\w+)")

# The start of an interpolation that is more than the name of another key.
_RESOLVER = re.compile(r"\$\{(?![\w.\[\]\s-]*\})")

# The split of `data.holdout` (data/holdout.py).
HOLDOUT = "holdout"

# Widest adapter that vLLM's LoRA takes.
MOST_LORA_RANK = 512

# Owner of the base models on the Hugging Face hub, and the start of their names.
HUB_OWNER = "Qwen"

# First parts of local paths; another word before a slash is an owner on the hub.
OWN_FOLDERS = ("checkpoints", "datasets", "models", "runs")

USAGE = "usage: python -m ray_jobs.<job> <preset | file.yaml> [key=value ...]"
HELP_COLUMN = 44


def load(argv: Sequence[str]) -> Config:
    """Return the configuration of a command line: a preset or YAML path, then `key=value`s.

    `--help` prints every key and exits.

    Raises:
        ValueError: an unknown key, a value of the wrong type or an unreadable file, with key,
            value, the nearest existing name and the remedy.
    """
    if "-h" in argv or "--help" in argv:
        print(help_text())
        raise SystemExit(0)
    if not argv or "=" in argv[0]:
        raise ValueError(
            f"the first argument is a preset or a YAML path; presets: {', '.join(presets())}"
        )

    tree = OmegaConf.structured(Config)
    allowed = _allows_resolvers(argv[1:])
    for source in _with_bases(_preset_path(argv[0])):
        content = _read_yaml(source)
        if not allowed and not source.resolve().is_relative_to(PRESETS):
            _refuse_resolvers(content, str(source))
        for key, value in _leaves(content):
            if key != "base":
                _set(tree, key, value, str(source))
    for argument in argv[1:]:
        key, value = _split(argument)
        _set(tree, key, value, "command line")

    cfg = cast(Config, OmegaConf.to_object(tree))
    lead_to_files(cfg)
    cfg.policy.path = policy_path(cfg.policy.path)
    if not cfg.tracking.preset:
        cfg.tracking.preset = Path(argv[0]).stem
    return cfg


def policy_path(path: str) -> str:
    """Return the model folder meant by `path`.

    That is `path` itself, the policy of a checkpoint (checkpoints/step_N), a run's best policy, or
    the folder of a name on a hub, if the model is in this machine's cache. Without any of them
    `path` comes back unchanged, and `validate` reports it.
    """
    for inside in (path, f"{path}/policy", f"{path}/best/policy"):
        if (resolve(inside) / "config.json").is_file():
            return inside
    if _hub_name(path) and not resolve(path).exists():
        return str(cached_model(_hub_name(path)) or path)
    return path


def _hub_name(path: str) -> str:
    """Return the name on a hub that a path looks like; "" for a local path."""
    name = path.removeprefix("hf://")
    looks_so = re.fullmatch(r"[\w-]+/[\w.-]+", name)
    is_own = Path(name).parts[:1] and Path(name).parts[0] in OWN_FOLDERS
    return name if looks_so and not is_own else ""


def validate(cfg: Config) -> None:
    """Check all that needs no engine: bounds, settings that must agree, and paths.

    Raises:
        ValueError: every problem, one a line.
    """
    _refuse([*wrong_values(cfg), *missing_paths(cfg)])


def validate_values(cfg: Config) -> None:
    """Check as `validate`, apart from the paths: for jobs that need only some of them."""
    _refuse(list(wrong_values(cfg)))


def resolve(path: str) -> Path:
    """Return a configured path; a relative one starts at the repository in every process."""
    expanded = Path(path).expanduser()
    return expanded if expanded.is_absolute() else REPOSITORY / path


def to_yaml(cfg: Config) -> str:
    """Return the resolved configuration; `load` reads it back to an equal `Config`."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def presets() -> list[str]:
    """Return the names of all presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def keys() -> dict[str, Any]:
    """Return every dotted key of the schema with its default."""
    return {key: each.value for key, each in _schema().items()}


def choices(key: str) -> list[str]:
    """Return the words that a setting allows; none if it is free."""
    return words_of(_schema()[key].type)


def help_text() -> str:
    """Return usage, presets, and every key with default, help, words and bounds."""
    lines = [USAGE, "", f"presets: {', '.join(presets())}", "", "keys, with their defaults:"]
    for each in _schema().values():
        left = f"  {each.key}={each.value}"
        if len(left) >= HELP_COLUMN:
            lines.append(left)
            left = ""
        lines.append(f"{left:<{HELP_COLUMN}}{_help_of(each)}")
    return "\n".join(lines)


def _help_of(each: Setting) -> str:
    parts = [each.help]
    words = words_of(each.type)
    if words:
        parts.append(f"[{' | '.join(words)}]")
    if each.bounds != Bounds():
        parts.append(f"({each.bounds})")
    return " ".join(parts)


@cache
def _schema() -> dict[str, Setting]:
    return {each.key: each for each in settings_of(Config())}


def _preset_path(name: str, where: str = "") -> Path:
    """Return a preset's file or a YAML path; `where` names the file with `name` as its base."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name) if Path(name).is_file() else PRESETS / name
    else:
        path = PRESETS / f"{name}.yaml"
    if path.is_file():
        return path
    near = nearest(name, presets())
    hint = f"did you mean {near}?" if near else "give one of these, or the path of a YAML file."
    raise ValueError(f"{where}{name}: no such preset; {hint} Presets: {', '.join(presets())}")


def _with_bases(path: Path) -> list[Path]:
    """Return the preset and its bases, the deepest base first."""
    chain = [path]
    base = _read_yaml(path).get("base")
    while base:
        path = _preset_path(str(base), f"{path.name}: base: ")
        if path in chain:
            circle = " -> ".join(each.name for each in [*chain, path])
            raise ValueError(f"{chain[-1].name}: `base` goes in a circle: {circle}")
        chain.append(path)
        base = _read_yaml(path).get("base")
    return chain[::-1]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:
        # The YAML reader has several families of errors; a user needs file and line.
        raise ValueError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path}: expected `key: value` lines at the top, found a {type(tree).__name__}"
        )
    return cast(dict[str, Any], tree)


def _allows_resolvers(arguments: Sequence[str]) -> bool:
    """Return whether the command line, where no file has a say, allows resolvers."""
    allowed = False
    for argument in arguments:
        if argument.startswith("allow_resolvers="):
            allowed = _split(argument)[1] is True
    return allowed


def _refuse_resolvers(value: Any, where: str) -> None:
    """Refuse all but plain references such as ${policy.path} in a file of other people.

    A resolver reads the environment, where tokens are, and a run's files and MLflow show it.
    `oc.decode` decodes what two other keys put together, so none of them is harmless.

    Args:
        where: The file and the key, for the message.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_resolvers(inner, f"{where}: {key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_resolvers(inner, f"{where}[{index}]")
    elif isinstance(value, str) and _RESOLVER.search(value):
        raise ValueError(
            f"{where}: {value!r:.80} asks for a resolver, which can read the environment: write "
            "the value itself, or trust the file with allow_resolvers=yes on the command line"
        )


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of a YAML tree."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key != OPEN_KEY:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _split(argument: str) -> tuple[str, Any]:
    """Return key and value of a `key=value` argument; the value is read as YAML."""
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise ValueError(f"{argument}: expected key=value, for example learner.lr=1e-4")
    if text == "":
        # `tracking.mlflow_uri=` is the empty string; YAML would read null.
        return key, ""
    try:
        value = OmegaConf.from_dotlist([f"value={text}"])["value"]
    except Exception as error:
        raise ValueError(f"{key}={text}: not a YAML value: {error}") from error
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    return key, value


def _set(tree: DictConfig, key: str, value: Any, where: str) -> None:
    """Set one key of the tree; `where` names the file or "command line" in messages."""
    schema = _schema()
    one_set = _ONE_SET.fullmatch(key)
    if one_set and one_set["key"] in SET_KEYS:
        key = one_set["key"]
        value = _with_changed_set(tree, key, int(one_set["index"]), one_set["name"], value, where)
    if key in SET_KEYS:
        try:
            OmegaConf.update(tree, key, _sets(key, value))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return
    is_open = key.startswith(f"{OPEN_KEY}.")
    if key not in schema and not is_open:
        raise ValueError(f"{where}: {key}: no such key; {_similar_key(key, list(schema))}")
    if not is_open and isinstance(schema[key].value, str) and isinstance(value, bool):
        # YAML reads the bare words yes and no as booleans.
        value = "yes" if value else "no"
    try:
        # Options given as a whole are merged into a base's, as two sections would be.
        OmegaConf.update(tree, key, value, merge=key == OPEN_KEY, force_add=is_open)
    except OmegaConfBaseException as error:
        if is_open:
            raise ValueError(f"{where}: {key}={value!r}: {error}") from error
        message = mismatch(key, value, schema[key].type)
        example = "" if choices(key) else f", such as {schema[key].value!r}"
        raise ValueError(f"{where}: {message}{example}") from error


def _with_changed_set(
    tree: DictConfig, key: str, index: int, name: str, value: Any, where: str
) -> list[Any]:
    """Return the present list of `key` with one value changed, as by `data.sets[0].root=...`."""
    items = cast(list[Any], OmegaConf.to_container(OmegaConf.select(tree, key)))
    if index >= len(items):
        raise ValueError(f"{where}: {key}[{index}].{name}: {key} has {len(items)} sets so far")
    items[index][name] = value
    return items


def _sets(key: str, value: Any) -> list[SetConfig]:
    """Return the data sets of a list of mappings.

    Raises:
        ValueError: something else than such a list, or a set with a missing, unknown or wrong key.
    """
    form = "[{format: mevis, root: datasets/MeViS, split: train}]"
    if not isinstance(value, list):
        raise ValueError(f"{key}={value!r}: expected a list of data sets, such as {form}")
    sets = []
    for index, item in enumerate(value):
        where = f"{key}[{index}]"
        if not isinstance(item, dict):
            raise ValueError(f"{where}={item!r}: expected a data set, such as {form[1:-1]}")
        for needed in ("format", "root", "split"):
            if not item.get(needed):
                raise ValueError(f"{where}.{needed}: not set; a data set is such as {form[1:-1]}")
        sets.append(make_settings(SetConfig, item, where))
    return sets


def _similar_key(key: str, known: list[str]) -> str:
    """Return a hint for a key that does not exist: the nearest one, or the keys of a section."""
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        return f"{key} is a section; its keys: {', '.join(inside)}"

    # Compare whole keys first, then the last part: `lr` means `learner.lr`.
    by_last_part = {name.rpartition(".")[2]: name for name in known}
    same_last_part = by_last_part.get(key.rpartition(".")[2], "")
    near = (
        nearest(key, [same_last_part, *known])
        or same_last_part
        or by_last_part.get(nearest(key, by_last_part), "")
    )
    return f"did you mean {near}?" if near else "--help lists every key."


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ValueError("\n".join(problems))


def wrong_values(cfg: Config) -> Iterator[str]:
    """Yield bounds that are broken and settings that do not go together."""
    yield from bound_problems(cfg)
    if not cfg.policy.system_message.strip():
        yield "policy.system_message is empty: give auto, none or a text"
    learner = cfg.learner
    if learner.lora_rank > 0 and learner.lora_alpha <= 0:
        yield f"learner.lora_alpha={learner.lora_alpha}: must be above 0 if lora_rank is"
    if learner.lora_publish == "adapter":
        yield from _wrong_adapter(cfg)
    yield from _wrong_grpo(cfg)
    if cfg.cluster.use_gpu == "no" and cfg.cluster.weight_backend != "object_store":
        yield f"cluster.weight_backend={cfg.cluster.weight_backend}: needs GPUs; use object_store"
    if cfg.mask.token and not KINDS[cfg.segmenter.kind].follows_drawn:
        yield (
            f"segmenter.kind={cfg.segmenter.kind}: a policy that draws masks "
            f"(mask.token={cfg.mask.token}) needs {' or '.join(kinds_that_follow_drawn())}"
        )
    if cfg.record.profile > cfg.train.steps:
        yield (
            f"record.profile={cfg.record.profile} (--profile): the run ends with step "
            f"{cfg.train.steps} (train.steps); give an earlier step"
        )
    yield from _wrong_workers(cfg)
    yield from _wrong_holdout(cfg)
    yield from _wrong_sets("data.sets", cfg.data.sets)
    yield from _wrong_sets("evaluate.sets", cfg.evaluate.sets)
    yield from _wrong_weights(cfg.data.sets)
    if cfg.data.sets and cfg.data.keep_file:
        yield (
            f"data.keep_file={cfg.data.keep_file}: belongs to data.train_split; "
            "with data.sets give each set its own, data.sets[0].keep_file=..."
        )
    if not cfg.name or Path(cfg.name).name != cfg.name or cfg.name in (".", ".."):
        yield (f"name={cfg.name!r}: must be a plain folder name; put the folder above it in `runs`")


def _wrong_adapter(cfg: Config) -> Iterator[str]:
    """Yield settings under which no adapter can be sent alone."""
    rank = cfg.learner.lora_rank
    if rank == 0:
        yield (
            "learner.lora_publish=adapter: there is no adapter; set learner.lora_rank, such as 16, "
            "or lora_publish=merged"
        )
    if rank > MOST_LORA_RANK:
        yield (
            f"learner.lora_rank={rank}: vLLM's LoRA takes at most {MOST_LORA_RANK}; "
            "lower it, or set learner.lora_publish=merged"
        )
    backend = cfg.cluster.weight_backend
    if backend != "object_store":
        yield (
            f"learner.lora_publish=adapter: cluster.weight_backend={backend} sends merged weights "
            "only; use object_store, or lora_publish=merged"
        )


def _wrong_grpo(cfg: Config) -> Iterator[str]:
    """Yield settings of the loss that contradict each other."""
    loss = cfg.grpo
    staleness = cfg.rollout.max_staleness
    if loss.loss == "dual_clip" and loss.dual_clip <= 1:
        yield f"grpo.dual_clip={loss.dual_clip}: must be above 1"
    if staleness and loss.importance_cap <= 0:
        yield (
            f"rollout.max_staleness={staleness}: older groups need importance weights; "
            "give grpo.importance_cap above 0, such as 2"
        )
    if 0 < loss.overlong_tokens < loss.overlong_cache:
        yield (
            f"grpo.overlong_cache={loss.overlong_cache}: is above "
            f"grpo.overlong_tokens={loss.overlong_tokens}; lower it"
        )


def _wrong_workers(cfg: Config) -> Iterator[str]:
    """Yield numbers of rollout actors that contradict each other."""
    rollout = cfg.rollout
    backend = cfg.cluster.weight_backend
    if rollout.workers == "auto" and backend != "object_store":
        yield (
            f"rollout.workers=auto: with cluster.weight_backend={backend} the number of engines is "
            "fixed; give a number, or use object_store"
        )
    if rollout.min_workers > rollout.first_workers:
        yield (
            f"rollout.min_workers={rollout.min_workers}: is above "
            f"rollout.workers={rollout.workers}; lower it, or set rollout.workers=auto"
        )
    if 0 < rollout.max_workers < rollout.min_workers:
        yield (
            f"rollout.max_workers={rollout.max_workers}: is below "
            f"rollout.min_workers={rollout.min_workers}"
        )
    if rollout.max_workers and rollout.workers != "auto":
        yield f"rollout.max_workers={rollout.max_workers}: has an effect with workers=auto only"


def _wrong_holdout(cfg: Config) -> Iterator[str]:
    """Yield a share to hold out that no split reads, or a split without a share."""
    data = cfg.data
    reads = HOLDOUT in (data.eval_split, data.test_split)
    if reads and not data.holdout:
        yield (
            f"data.holdout=0: the split {HOLDOUT} is a share of the training videos; "
            "give it, such as data.holdout=0.02"
        )
    if data.holdout and not reads:
        yield (
            f"data.holdout={data.holdout}: these videos are neither trained on nor watched; "
            f"set data.eval_split={HOLDOUT}, or data.holdout=0"
        )


def _wrong_sets(key: str, sets: Sequence[SetConfig]) -> Iterator[str]:
    """Yield names of data sets that are no plain words, or stand for two sets."""
    first: dict[str, int] = {}
    for index, each in enumerate(sets):
        name = each.label
        if not re.fullmatch(r"\w[\w.-]*", name):
            yield (
                f"{key}[{index}].name={name!r}: must be one plain word, since sample ids and files "
                "are named after it"
            )
        if name in first:
            yield (
                f"{key}[{index}]: has the name {name!r} of {key}[{first[name]}]; give one of them "
                "another name=..."
            )
        first.setdefault(name, index)


def _wrong_weights(sets: Sequence[SetConfig]) -> Iterator[str]:
    """Yield weights and repeats of a mix that contradict each other."""
    weights = [each.weight for each in sets]
    for index, each in enumerate(sets):
        if each.weight == 0 and any(weights):
            yield (
                f"data.sets[{index}].weight=0: the other sets have weights; give all sets a weight "
                "above 0, or none of them (by size and data.temperature)"
            )
        if each.weight > 0 and each.repeats > 1:
            yield (
                f"data.sets[{index}].repeats={each.repeats}: has no effect beside a weight; "
                "repeats multiply the size of a set, by which it is drawn where no set has a weight"
            )


def missing_paths(cfg: Config) -> Iterator[str]:
    """Yield configured paths that do not exist."""
    policy = resolve(cfg.policy.path)
    if not (policy / "config.json").is_file():
        yield (
            f"policy.path={cfg.policy.path}: no config.json in {policy}; "
            f"{_similar_path(cfg.policy.path)}"
            f"give a model, checkpoint or run folder{_download(cfg.policy.path)}"
        )

    root = resolve(cfg.data.root)
    if not root.is_dir() and not cfg.data.synthetic:
        yield (
            f"data.root={cfg.data.root}: {root} does not exist; {_similar_path(cfg.data.root)}"
            "give the data's folder, or data.synthetic=true"
        )
    for key, sets in (("data.sets", cfg.data.sets), ("evaluate.sets", cfg.evaluate.sets)):
        for index, each in enumerate(sets):
            made = cfg.data.synthetic and resolve(each.root) == root
            if not made and not resolve(each.root).is_dir():
                yield (
                    f"{key}[{index}].root={each.root}: {resolve(each.root)} does not exist; "
                    "give the folder of the data set"
                )

    for name, remedy in KINDS[cfg.segmenter.kind].files.items():
        given = str(getattr(cfg.segmenter, name))
        if not given:
            yield f"segmenter.{name}: not set; give {remedy}"
        elif not resolve(given).exists():
            near = _similar_path(given)
            yield f"segmenter.{name}={given}: {resolve(given)} does not exist; {near}give {remedy}"

    resume = cfg.train.resume
    if resume not in ("auto", "never") and not resolve(resume).is_dir():
        yield f"train.resume={resume}: expected auto, never, or an existing checkpoint folder"


def _similar_path(path: str) -> str:
    """Return a hint of the nearest name beside a path that does not exist; empty without one."""
    wrong = resolve(path)
    if wrong.exists() or not wrong.parent.is_dir():
        return ""
    near = nearest(wrong.name, [each.name for each in wrong.parent.iterdir()])
    return f"did you mean {Path(path).with_name(near)}? Else " if near else ""


def _download(path: str) -> str:
    """Return the command that downloads a model, if `path` looks like its name on a hub."""
    named = _hub_name(path)
    path = path.removeprefix("hf://")
    folder = Path(path)
    known = folder.name.startswith(HUB_OWNER)
    if resolve(path).exists() or not (known or named):
        return ""
    hub_name = named or f"{HUB_OWNER}/{folder.name}"
    target = f"checkpoints/{folder.name}" if named else path
    return (
        "; models are not downloaded by jobs: "
        f"`hf download {hub_name} --local-dir {target}`, then policy.path={target}"
    )


if __name__ == "__main__":
    try:
        print(to_yaml(load(sys.argv[1:])), end="")
    except ValueError as error:
        raise SystemExit(str(error)) from None
