"""GPU memory of each kind of actor, by arithmetic: enough to refuse a layout before a queue slot.

Not measured on a GPU yet. Sources of the formulas stand where they are used; numbers marked
"allowance" are this project's guesses for what has no formula.

    need = learner_need(cfg, sizes)
    print(need.actor, need.gib, need.parts)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.plan import Kind, Plan, Spot
from configs.schema import Config
from core.types import System
from models.families.sizes import Sizes

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}

# Allowances, in GiB: CUDA context with its libraries' buffers; communication of learner ranks;
# profiling run and graphs of an engine; features and memories of SAM 2 at 1024 x 1024.
CONTEXT = 0.6
COMMUNICATION = 1.0
ENGINE_RUN = 3.0
SEGMENTER_RUN = 4.0
# Bytes of the fp32 logits that the head keeps at the peak (models/policy/logprob_head.py).
LOGITS = 2 * (256 << 20)


@dataclass(frozen=True)
class Part:
    """One line of an actor's memory."""

    what: str
    gib: float


@dataclass(frozen=True)
class Need:
    """The memory of one actor.

    Attributes:
        actor: its kind, in words.
        parts: what it consists of.
        note: what else is worth knowing.
    """

    actor: str
    parts: tuple[Part, ...]
    note: str = ""

    @property
    def gib(self) -> float:
        return sum(part.gib for part in self.parts)


@dataclass(frozen=True)
class Load:
    """The memory of one GPU of a plan, and what it has.

    Attributes:
        actors: the actors on it, in words.
        gib: memory that they need together.
        limit: memory that they may use.
        engine_room: what its engine has beyond its least need; negative: it cannot start.
    """

    actors: str
    gib: float
    limit: float
    engine_room: float = 0.0


def engine_need(cfg: Config, sizes: Sizes, gpu_gib: float) -> Need:
    """Return the least memory of an engine on each of its GPUs: weights and one whole dialogue."""
    size = BYTES[cfg.policy.dtype]
    ranks = cfg.rollout.tensor_parallel
    weights = sizes.parameters * size / ranks / GIB
    token = sizes.kv_values * size / min(ranks, sizes.kv_heads)
    dialogue = token * cfg.rollout.max_model_len / GIB
    parts = (
        Part(f"weights, {sizes.parameters / 1e9:.2f} G x {size} bytes / {ranks}", weights),
        Part(f"KV cache of one dialogue, {cfg.rollout.max_model_len} tokens", dialogue),
        Part("profiling run and graphs (allowance)", ENGINE_RUN),
    )
    budget = cfg.rollout.gpu_memory_utilization * gpu_gib
    left = max(0.0, budget - weights - ENGINE_RUN)
    note = (
        f"rollout.gpu_memory_utilization={cfg.rollout.gpu_memory_utilization:g} takes "
        f"{budget:.1f} GiB: a KV cache of {left * GIB / token:,.0f} tokens, or "
        f"{left / dialogue:.1f} dialogues of full length ({token / 1024:.0f} KiB a token)"
    )
    return Need("engine", parts, note)


def learner_need(cfg: Config, sizes: Sizes, segmenter_bytes: int = 0) -> Need:
    """Return the memory of a learner rank: model states, the reference, and one row."""
    learner = cfg.learner
    parts = _states(cfg, sizes)
    has_reference = cfg.grpo.kl_coef > 0 and learner.lora_rank == 0
    if has_reference:
        whole = sizes.parameters * BYTES[cfg.policy.dtype] / GIB
        parts.append(Part("reference of the KL term, whole", whole))
    if cfg.mask.token:
        parts.append(Part("SAM 2 behind the mask head", segmenter_bytes / GIB))
    parts += _activations(cfg, sizes)
    parts.append(Part("context and communication (allowance)", CONTEXT + COMMUNICATION))
    note = ""
    if learner.offload_reference and has_reference:
        note = "learner.offload_reference moves the reference to the CPU outside of its own forward"
    return Need("learner rank", tuple(parts), note)


def _states(cfg: Config, sizes: Sizes) -> list[Part]:
    """Return the model states of a rank as in ZeRO (arXiv 1910.02054, sections 3 and 5).

    Those are compute weights, gradients (here accumulated in fp32), and AdamW's states: two
    moments, and fp32 weights beside bfloat16 ones. Stage 1 divides the states among the ranks,
    stage 2 the gradients too, stage 3 the weights too.
    """
    size = BYTES[cfg.policy.dtype]
    learner = cfg.learner
    stage = learner.zero_stage
    if stage == 0 and (size == 2 or learner.offload_optimizer):
        # As actors.optimizer does.
        stage = 1
    shares = [learner.world_size if stage >= least else 1 for least in (3, 2, 1)]
    total = sizes.parameters
    trained = trained_parameters(cfg, sizes)
    weights = total * size / shares[0] / GIB
    gradients = trained * 4 / shares[1] / GIB
    states = trained * (12 if size == 2 else 8) / shares[2] / GIB

    where = f"ZeRO-{stage} of {learner.world_size}"
    parts = [
        Part(f"weights, {total / 1e9:.2f} G x {size} bytes, {where}", weights),
        Part(f"gradients of {trained / 1e9:.2f} G, fp32", gradients),
    ]
    if not learner.offload_optimizer:
        parts.append(Part("states of AdamW", states))
    if stage == 3:
        widest = sizes.vocabulary * sizes.hidden * size / GIB
        parts.append(Part("the widest layer, gathered whole", widest))
    return parts


def trained_parameters(cfg: Config, sizes: Sizes) -> int:
    """Return the number of parameters with gradients."""
    learner = cfg.learner
    if learner.lora_rank:
        width = sizes.hidden
        queries = sizes.heads * sizes.head_dim
        keys = sizes.kv_heads * sizes.head_dim
        shapes = {
            "q_proj": width + queries,
            "k_proj": width + keys,
            "v_proj": width + keys,
            "o_proj": queries + width,
            "gate_proj": width + sizes.mlp,
            "up_proj": width + sizes.mlp,
            "down_proj": sizes.mlp + width,
        }
        names = learner.lora_targets or list(shapes)
        sides = sum(shapes.get(name, 0) for name in names)
        return sizes.layers * learner.lora_rank * sides
    return sizes.language if learner.freeze_vision else sizes.parameters


def _activations(cfg: Config, sizes: Sizes) -> list[Part]:
    """Return what the backward pass of one row of `learner.row_tokens` keeps.

    With checkpointing: the input of every layer, and everything of the one that is computed again.
    """
    size = BYTES[cfg.policy.dtype]
    tokens = cfg.learner.row_tokens
    if cfg.learner.gradient_checkpointing:
        values = sizes.layers * sizes.hidden + sizes.layer_values
        what = "checkpointed"
    else:
        values = sizes.layers * sizes.layer_values
        what = "not checkpointed"
    language = tokens * values * size / GIB

    parts = [Part(f"activations of a row of {tokens} tokens, {what}", language)]
    if not cfg.learner.freeze_vision and cfg.learner.lora_rank == 0:
        # At most half of a row's tokens are of unique images in every preset.
        patches = tokens // 2 * sizes.merged
        if cfg.learner.gradient_checkpointing:
            kept = sizes.vision_layers * sizes.vision_hidden + sizes.vision_layer_values
        else:
            kept = sizes.vision_layers * sizes.vision_layer_values
        parts.append(Part(f"activations of {patches} patches", patches * kept * size / GIB))
    parts.append(Part("logits of two chunks, fp32", LOGITS / GIB))
    return parts


def segmenter_need(segmenter_bytes: int) -> Need:
    """Return the memory of a segmenter actor; also of a reward actor that segments."""
    parts = [Part("context (allowance)", CONTEXT)]
    if segmenter_bytes:
        parts.append(Part("weights", segmenter_bytes / GIB))
        parts.append(Part("frames, features and memories (allowance)", SEGMENTER_RUN))
    return Need("segmenter actor", tuple(parts))


def reward_need(system: System | None, segmenter_bytes: int) -> Need:
    """Return the memory of a reward actor; most rewards need no segmenter."""
    if system is not None and system.masks_by in ("segmenter", "tracker"):
        return Need("reward actor", segmenter_need(segmenter_bytes).parts)
    return Need("reward actor", (Part("context (allowance)", CONTEXT),), "no model")


def drawer_need(cfg: Config, sizes: Sizes, segmenter_bytes: int) -> Need:
    """Return the memory of a drawer: the policy without gradients, and a mask head."""
    size = BYTES[cfg.policy.dtype]
    forward = cfg.learner.row_tokens * sizes.layer_values * size / GIB
    parts = (
        Part("context (allowance)", CONTEXT),
        Part("weights of policy and SAM 2", (sizes.parameters * size + segmenter_bytes) / GIB),
        Part(f"one layer over a row of {cfg.learner.row_tokens} tokens", forward),
    )
    return Need("drawer", parts)


def loads(
    plan: Plan,
    spots: Sequence[Spot],
    needs: Mapping[Kind, Need],
    cfg: Config,
    gpu_gib: float,
) -> dict[tuple[int, int], Load]:
    """Return the load of every GPU in use, by node and number.

    Args:
        plan: the plan.
        spots: the spot of each bundle.
        needs: the memory of an actor, by its kind.
        cfg: the settings of the engines.
        gpu_gib: memory of one GPU.
    """
    on_gpu: dict[tuple[int, int], list[Kind]] = {}
    for bundle, spot in zip(plan.bundles, spots, strict=True):
        for gpu in spot.gpus:
            kinds = on_gpu.setdefault((spot.node, gpu), [])
            kinds += [seat.kind for seat in bundle.seats]

    # An engine takes what it is given.
    given = cfg.rollout.gpu_memory_utilization * gpu_gib
    found = {}
    for place, kinds in sorted(on_gpu.items()):
        gib = [given if kind == "rollout" else needs[kind].gib for kind in kinds]
        # The actors of `segment` take turns.
        together = max(gib) if plan.job == "segment" else sum(gib)
        room = given - needs["rollout"].gib if "rollout" in kinds else 0.0
        found[place] = Load(_names(kinds, needs), together, gpu_gib, room)
    return found


def load_problems(cfg: Config, found: Mapping[tuple[int, int], Load]) -> list[str]:
    """Return what does not fit on its GPU, each case once, with a remedy."""
    problems = []
    for (node, gpu), load in found.items():
        has_engine = "engine" in load.actors
        if load.gib > load.limit:
            remedy = "lower learner.row_tokens, raise learner.zero_stage or learner.world_size"
            if has_engine:
                remedy = "lower rollout.gpu_memory_utilization, or give more GPUs"
            problems.append(
                f"memory: {load.actors} need {load.gib:.1f} GiB of {load.limit:g} on a GPU "
                f"(node {node}, GPU {gpu}): {remedy}"
            )
        if load.engine_room < 0:
            problems.append(
                f"rollout.gpu_memory_utilization={cfg.rollout.gpu_memory_utilization:g}: an engine "
                f"lacks {-load.engine_room:.1f} GiB for its weights and one dialogue: raise it, "
                "or rollout.tensor_parallel"
            )
    seen: dict[str, str] = {}
    for problem in problems:
        seen.setdefault(problem.split(" (node ")[0], problem)
    return list(seen.values())


def _names(kinds: Sequence[Kind], needs: Mapping[Kind, Need]) -> str:
    words = []
    for kind in dict.fromkeys(kinds):
        count = kinds.count(kind)
        words.append(needs[kind].actor if count == 1 else f"{count} x {needs[kind].actor}")
    return " + ".join(words)
