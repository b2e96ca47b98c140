"""Every setting of rayvos: type, default, help, bounds and identity, each at its field.

Presets are YAML files beside this one. `configs.load` merges a preset, then `key=value` overrides,
into `Config`; `core.settings` checks the result. Defaults are neutral: a paper's numbers stand in
its preset, with their source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from core.settings import section, setting

# What a setting identifies. A run continues only under equal settings of kind RUN, and two files of
# predictions are mixed only under equal settings of kind PREDICTIONS.
RUN = "run"
PREDICTIONS = "predictions"


# Formats of data sets, each with a reader in data/readers.
Format = Literal[
    "mevis",
    "revos",
    "lvvis",
    "reasonvos",
    "longrvos",
    "groundmore",
    "ref_sav",
    "ref_youtube_vos",
    "ref_davis17",
    "reasonseg",
    "refcoco",
    "visionreasoner",
    "vts_cot",
    "o3_rl",
    "o3_sft",
    "own",
]


@dataclass
class PolicyConfig:
    """The vision-language model that is trained."""

    path: str = setting(
        "tiny/weights/revseg",
        help="Hugging Face folder, checkpoint or run; relative paths start at the repository",
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        help="compute type of engine and learner",
        identifies=(RUN, PREDICTIONS),
    )
    system_message: str = setting(
        "auto",
        help="message before the first turn: auto (the system's own, else that of the policy's "
        "official template), none, or a text",
        identifies=(RUN, PREDICTIONS),
    )
    coordinates: Literal["auto", "pixels", "thousandths"] = setting(
        "auto",
        help="unit of the places that the policy writes: auto (its family's), pixels of the image "
        "as shown, or thousandths of its sides",
        identifies=(RUN, PREDICTIONS),
    )
    attention: Literal["auto", "split", "flex"] = setting(
        "auto", help="tree attention of the learner; flex needs a GPU"
    )


@dataclass
class SetConfig:
    """One data set of several: an item of `data.sets` or `evaluate.sets`."""

    format: Format = setting("mevis", help="format of the files, as data.format")
    root: str = setting("", help="folder of the data set, as data.root")
    split: str = setting("", help="split of the data set")
    name: str = setting("", help="short name in sample ids and tables; empty: <format>_<split>")
    weight: float = setting(
        0.0, help="training: share relative to the other sets; 0 in all: by size", least=0
    )
    repeats: int = setting(1, help="training: uses of each sample in an epoch of its set", least=1)
    keep_file: str = setting("", help="keep.json of ray_jobs.prepare; empty: all videos")
    no_target: Literal["skip", "keep"] = setting(
        "skip", help="leave out or keep samples without a target"
    )

    @property
    def label(self) -> str:
        """The name of the set, also fit for files: `name`, or one from format and split."""
        return self.name or re.sub(r"[^\w.-]", "_", f"{self.format}_{self.split}")


@dataclass
class DataConfig:
    """The data set and its splits, or the mix of data sets for training."""

    format: Format = setting(
        "mevis",
        help="format of the files, each with a reader in data/readers",
        identifies=(RUN, PREDICTIONS),
    )
    root: str = setting(
        "datasets/synthetic", help="folder of the data set; docs/data.md lists the layouts"
    )
    synthetic: bool = setting(False, help="make the synthetic data set if `data.root` is absent")
    length: Literal["short", "long"] = setting(
        "short",
        help="synthetic data: 24 frames a video, or 96 with each shape visible in 8 to 12",
    )
    train_split: str = setting("train", help="split for training")
    eval_split: str = setting(
        "valid",
        help="split watched during training, on which `best` is chosen; holdout: the videos of "
        "data.holdout",
    )
    holdout: float = setting(
        0.0,
        help="share of the training videos set aside as the split `holdout`, by a hash of their "
        "names",
        least=0,
        below=1,
    )
    test_split: str = setting(
        "test",
        help="split for the table before and after training, and for ray_jobs.evaluate",
        identifies=(RUN, PREDICTIONS),
    )
    no_target: Literal["skip", "keep"] = setting(
        "skip", help="leave out or keep samples without a target", identifies=(RUN, PREDICTIONS)
    )
    max_pixels: int = setting(
        35_389_440,
        help="most pixels of a frame or mask (8192 x 4320); a larger one is refused, not decoded",
        least=1,
        identifies=(),
    )
    hints: str = setting("", help="folder of stored hints; empty: the run's own, made when needed")
    keep_file: str = setting(
        "", help="keep.json of ray_jobs.prepare: train on its videos only; empty: on all"
    )
    sets: list[SetConfig] = setting(
        [],
        help="training and warm start on several sets, each {format, root, split, name, weight, "
        "repeats, keep_file, no_target}; empty: on data.train_split",
    )
    temperature: float = setting(
        1.0,
        help="data.sets without weights: share ~ size ** (1 / temperature); large: equal shares",
        above=0,
    )


@dataclass
class SystemConfig:
    """The published method: how an episode is played and rewarded."""

    name: str = setting(
        "revseg", help="system, a folder of systems/", identifies=(RUN, PREDICTIONS)
    )
    options: dict[str, Any] = setting(
        {},
        help="fields of the system's own options dataclass",
        identifies=(RUN, PREDICTIONS),
    )


@dataclass
class RolloutConfig:
    """Playing episodes with vLLM."""

    workers: int | Literal["auto"] = setting(
        1,
        help="rollout actors, one engine each; auto: as many as the cluster has room for, from "
        "min_workers to max_workers",
        least=1,
        identifies=(),
    )
    min_workers: int = setting(
        1,
        help="engines that must be up before the job begins, the others join; auto: also the "
        "engines that are reserved",
        least=1,
        identifies=(),
    )
    max_workers: int = setting(
        0,
        help="auto: most engines, and as many are asked of Ray's autoscaler; 0: no limit, nothing "
        "is asked",
        least=0,
        identifies=(),
    )
    cpus_per_worker: int = setting(
        4,
        help="auto without GPUs: CPU cores of a node for each engine; each node may have its share",
        least=1,
        identifies=(),
    )
    group_size: int = setting(8, help="episodes of a prompt (G)", least=2)
    prompts_per_step: int = setting(16, help="prompts of a step (P)", least=1)
    temperature: float = setting(1.0, help="sampling temperature in training", above=0)
    top_p: float = setting(
        1.0, help="nucleus sampling", above=0, most=1, identifies=(RUN, PREDICTIONS)
    )
    max_model_len: int = setting(
        2048, help="most tokens of a dialogue", least=1, identifies=(RUN, PREDICTIONS)
    )
    max_num_seqs: int = setting(64, help="dialogues that an engine decodes at once", least=1)
    kv_cache_bytes: int = setting(268435456, help="bytes of an engine's KV cache; CPU only")
    gpu_memory_utilization: float = setting(0.6, help="share of a GPU for an engine; GPU only")
    tensor_parallel: int = setting(1, help="GPUs of an engine", least=1)
    max_failed_share: float = setting(
        0.05,
        help="largest share of failed episodes in a step; above it the run stops",
        least=0,
        below=1,
    )
    max_staleness: int = setting(
        0,
        help="updates that the weights of a group may be behind when it is learned; 0: strictly on "
        "policy",
        least=0,
    )

    max_replaced: int = setting(
        0,
        help="most prompts of a step that are replaced because the rewards of their group do not "
        "differ (DAPO's dynamic sampling); 0: such groups stay, and count in the mean",
        least=0,
    )
    order: Literal["prompts", "arrival"] = setting(
        "prompts",
        help="order in which the learner adds groups up; as they arrive it never waits for one in "
        "front, but two runs differ by rounding",
    )

    @property
    def first_workers(self) -> int:
        """The number of engines that a job starts with, and reserves."""
        return self.min_workers if self.workers == "auto" else self.workers


@dataclass
class GrpoConfig:
    """Advantages and policy loss."""

    loss: Literal["grpo", "dual_clip", "gspo", "cispo"] = setting(
        "grpo", help="policy loss in core/losses"
    )
    advantage_std: bool = setting(True, help="divide by the group's standard deviation")
    advantage_eps: float = setting(1e-6, help="added to that standard deviation")
    clip_low: float = setting(
        0.2,
        help="lower clip range of the ratio, of a token or (gspo) an episode; gspo's authors: 3e-4",
    )
    clip_high: float = setting(0.2, help="upper clip range of the ratio; gspo's authors: 4e-4")
    dual_clip: float = setting(
        3.0, help="loss dual_clip: bound of the ratio where the advantage is negative; above 1"
    )
    overlong_tokens: int = setting(
        0, help="trained tokens of an episode from which it loses a reward of 1; 0: off", least=0
    )
    overlong_cache: int = setting(
        64, help="tokens before overlong_tokens in which this loss grows", least=1
    )
    kl_coef: float = setting(0.0, help="weight of the KL term")
    kl_estimator: Literal["k1", "k2", "k3"] = setting("k3", help="estimator of the KL term")
    kl_clamp: float = setting(
        0.0, help="largest absolute KL estimate of a token (Seg-Zero: 10); 0: no limit", least=0
    )
    aggregation: Literal["token_mean", "sequence_mean", "dr_grpo"] = setting(
        "token_mean", help="how token losses become one number"
    )
    importance: Literal["token", "sequence"] = setting(
        "token", help="level of the importance weights learner / engine"
    )
    importance_cap: float = setting(
        2.0, help="largest importance weight; applied off policy only, always reported; 0: off"
    )
    entropy_coef: float = setting(0.0, help="weight of the entropy bonus")
    per_turn_credit: bool = setting(
        False, help="credit a turn only with the reward earned from it on; chosen by this project"
    )


@dataclass
class LearnerConfig:
    """Training with DeepSpeed."""

    world_size: int = setting(1, help="ranks of the learner", least=1)
    zero_stage: Literal[0, 1, 2, 3] = setting(1, help="ZeRO stage of DeepSpeed")
    lr: float = setting(1e-6, help="peak learning rate", least=0)
    weight_decay: float = setting(0.01, help="weight decay of AdamW")
    betas: tuple[float, float] = setting((0.9, 0.999), help="betas of AdamW")
    warmup_steps: int = setting(0, help="optimizer steps from 0 to `learner.lr`")
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "constant", help="learning rate after the warm-up"
    )
    grad_clip: float = setting(1.0, help="largest gradient norm")
    freeze_vision: bool = setting(False, help="leave the vision tower as it is")
    row_tokens: int = setting(4096, help="token budget of a packed row", least=1)
    offload_optimizer: bool = setting(
        False, help="optimizer states and steps on the CPU (DeepSpeed's CPU AdamW)"
    )
    offload_reference: bool = setting(
        False,
        help="keep the reference of the KL term in CPU memory between batches; without LoRA only",
    )
    lora_rank: int = setting(0, help="above 0: train low-rank adapters only", least=0)
    lora_alpha: float = setting(32.0, help="adapters are scaled by lora_alpha / lora_rank")
    lora_targets: list[str] = setting(
        [],
        help="linear layers with adapters, such as [q_proj, v_proj]; empty: all of a decoder layer",
    )
    lora_publish: Literal["merged", "adapter"] = setting(
        "merged",
        help="what engines get of a policy with adapters: its weights with them merged, or the "
        "adapter alone, for vLLM's LoRA",
    )
    gradient_checkpointing: bool = setting(False, help="recompute activations to save memory")
    optimizer_steps: int = setting(
        1, help="optimizer steps on one batch; above 1 the clipping has an effect", least=1
    )
    max_bad_steps: int = setting(
        3, help="steps in a row with a non-finite loss or gradient before the run stops", least=1
    )


@dataclass
class RewardConfig:
    """Reward actors."""

    workers: int = setting(1, help="reward actors", least=1)
    timeout_s: float = setting(300.0, help="seconds for the rewards of one group", above=0)


@dataclass
class SegmenterConfig:
    """The model that turns mask prompts into masks and tracks them through a video."""

    kind: Literal["sam2", "sam2_xmem", "grabcut"] = setting(
        "sam2", help="segmenter in models/segmenters", identifies=(RUN, PREDICTIONS)
    )
    path: str = setting(
        "tiny/weights/segmenter",
        help="an official SAM 2 checkpoint (2.0 or 2.1), or a folder with config.json and "
        "model.safetensors",
    )
    config: str = setting(
        "",
        help="size that an official checkpoint must have, such as hiera_l; empty: any",
        identifies=(RUN, PREDICTIONS),
    )
    multimask: bool = setting(
        False,
        help="on a prompted frame, take the best of three masks by predicted IoU, whatever the "
        "prompt; else three for a single point only. Official checkpoints only",
        identifies=(RUN, PREDICTIONS),
    )
    workers: int = setting(1, help="segmenter actors", least=1, identifies=())
    xmem_path: str = setting("", help="kind sam2_xmem: local checkout of hkchengrex/XMem")
    xmem_weights: str = setting("", help="kind sam2_xmem: weights of XMem, XMem.pth")
    xmem_size: int = setting(
        480,
        help="kind sam2_xmem: short side of XMem's frames in pixels, 96 or more; 0: as they are",
        least=0,
    )


@dataclass
class MaskConfig:
    """A policy that draws masks itself, with a mask head over the SAM 2 of `segmenter.path`."""

    token: str = setting("", help='token with a mask, such as "[SEG]"; empty: no mask head')
    calibration: float = setting(
        1.0, help="weight of a drawn mask's log-likelihood in its token's log-prob; 0: off", least=0
    )
    threshold: float = setting(0.5, help="logit above which a pixel of the drawn mask is set")
    loss: float = setting(
        0.2, help="weight of the supervised mask losses beside the policy loss; 0: off", least=0
    )
    bce: float = setting(1.0, help="weight of binary cross-entropy in the mask losses", least=0)
    dice: float = setting(1.0, help="weight of the Dice loss in the mask losses", least=0)
    points: int = setting(
        0,
        help="pixels of a mask in the mask losses, three quarters of them uncertain; 0: all",
        least=0,
    )
    multimask: bool = setting(
        False, help="draw the best of three masks by predicted IoU; else SAM 2's single mask"
    )
    redraw: bool = setting(
        False, help="draw on every frame instead of tracking the first mask with SAM 2"
    )
    fresh: bool = setting(
        False, help="start a new head where the policy has none; set by ray_jobs.warm_start"
    )


@dataclass
class TrainConfig:
    """The training job (`ray_jobs.train`)."""

    steps: int = setting(100, help="steps in all", least=0)
    checkpoint_every: int = setting(
        0, help="steps between checkpoints; 0: only at the end", least=0
    )
    checkpoint_beside: bool = setting(
        True,
        help="write checkpoints while training goes on; takes CPU memory for a copy of the state",
    )
    keep_checkpoints: int = setting(
        0, help="newest checkpoints to keep, beside `best`; 0: all", least=0
    )
    eval_every: int = setting(0, help="steps between evaluations; 0: none", least=0)
    eval_beside: bool = setting(
        False,
        help="evaluate on an engine of its own while the next steps run; takes one GPU more, or "
        "CPU memory for one more engine",
    )
    eval_before: bool = setting(True, help="evaluate before the first step")
    eval_samples: int = setting(
        200, help="number of expressions in each evaluation of a training run", least=1
    )
    sampled_repeats: int = setting(
        1, help="episodes of an expression in the evaluation at temperature 1", least=1
    )
    max_logprob_gap: float = setting(
        1e-4,
        help="largest mean |log-prob difference| of engine and learner; above it the run stops",
    )
    max_weight: float = setting(
        1e4, help="largest absolute value of a weight; above it the run stops", above=0
    )
    max_grad_norm: float = setting(
        1e6, help="largest gradient norm before clipping; above it the run stops", above=0
    )
    max_kl: float = setting(
        100.0, help="largest mean KL from the reference; above it the run stops", above=0
    )
    max_dead_steps: int = setting(
        10,
        help="steps in a row in which every episode has the run's lowest reward; 0: never stop",
        least=0,
    )
    resume: str = setting(
        "auto", help="auto: from the newest checkpoint; never: start over; or a checkpoint folder"
    )
    stop_s: float = setting(
        20.0,
        help="seconds that a step may go on after SIGTERM before it is given up",
        least=0,
    )

    @property
    def evaluates_beside(self) -> bool:
        """Whether evaluations between two steps run beside the next steps."""
        return self.eval_beside and self.eval_every > 0


@dataclass
class EvaluateConfig:
    """Measuring a policy on `data.test_split` (`ray_jobs.evaluate`)."""

    samples: int = setting(0, help="number of expressions, from the first on; 0: all", least=0)
    protocol: Literal[
        "auto",
        "mean",
        "by_kind",
        "revos",
        "ref_sav",
        "images",
        "binary_per_expression",
        "davis_4_annotators",
    ] = setting(
        "auto", help="protocol of the figures (core/evaluation/protocols.py); auto: by data.format"
    )
    chunk: int = setting(
        32, help="most expressions of a video segmented and written together", least=1
    )
    resume: Literal["auto", "never"] = setting(
        "auto", help="auto: keep finished predictions; never: start over"
    )
    sampler: str = setting(
        "",
        help="policy that answers auxiliary questions without a stored hint; empty: the policy "
        "before training, as in the run of policy.path",
    )
    sets: list[SetConfig] = setting(
        [],
        help="several benchmarks in one table, each {format, root, split, name, keep_file, "
        "no_target}; empty: data.test_split",
    )


@dataclass
class TrackingConfig:
    """Experiment tracking."""

    mlflow_uri: str = setting("sqlite:///mlflow.db", help="tracking server; empty: no MLflow")
    experiment: str = setting("rayvos", help="experiment in MLflow")
    traces: int = setting(
        8, help="episodes of a step sent as traces, in whole groups; 0: none", least=0
    )
    preset: str = setting("", help="tag `preset`; empty: the one that the job is started with")
    parent: str = setting("", help="outbox of the parent run (set by ray_jobs.ablate)")


@dataclass
class RecordConfig:
    """What the run folder keeps for the replay page (`ray_jobs.replay`), and the live page."""

    episodes: int = setting(
        16,
        help="episodes of a step kept with pictures and tokens, in whole groups, at least one; "
        "0: the texts alone",
        least=0,
    )
    frames: int = setting(32, help="frames of a kept video", least=2)
    side: int = setting(320, help="longer side of the frames of a kept video", least=16)
    megabytes: int = setting(512, help="most MiB of pictures of a run", least=0)
    port: int = setting(
        0,
        help="port of the live page of a training on this machine, such as 8700; 0: none "
        "(ray_jobs.watch shows it too)",
        least=0,
        most=65535,
    )
    profile: int = setting(
        0,
        help="step of a training whose Chrome trace is written, as --profile STEP says; 0: none",
        least=0,
    )


@dataclass
class ClusterConfig:
    """Ray and the devices."""

    address: str = setting("", help="address of the Ray head; empty: a local one, or the job's own")
    use_gpu: Literal["auto", "yes", "no"] = setting(
        "auto", help="use GPUs; auto: if the Ray cluster has any"
    )
    metrics_port: int = setting(
        0,
        help="figures for Prometheus, vLLM's own too, at this port of a local Ray (nodes of a "
        "cluster have ports of their own); 0: none",
        least=0,
        most=65535,
    )
    weight_backend: Literal["object_store", "nccl", "ipc"] = setting(
        "object_store", help="transfer of weights to the engines; nccl and ipc need GPUs"
    )
    weight_path: Literal["auto", "full", "delta"] = setting(
        "auto",
        help="with object_store: auto: shared memory on the learner's machine, lossless deltas to "
        "others; full, delta: through the object store to all engines",
    )
    weight_full_every: int = setting(
        10, help="deltas in a row before the object store gets a full version again", least=0
    )
    autoscaler: Literal["auto", "yes", "no"] = setting(
        "auto", help="more nodes may come: wait for missing GPUs; auto: if Ray's status says so"
    )
    wait_s: float = setting(
        1800.0,
        help="most seconds of waiting for GPUs: of an autoscaler, or held by other jobs",
        least=0,
    )
    max_rebuilds: int = setting(
        3,
        help="new starts of a learner that died, without another step or checkpoint in between",
        least=0,
    )
    max_restarts: int = setting(
        3, help="restarts of a died training process without a step in between; 0: none", least=0
    )
    hang_s: float = setting(
        60.0,
        help="an actor without a sign of progress for so long is named and replaced; 0: never",
        least=0,
    )
    start_s: float = setting(
        1800.0,
        help="most seconds for an actor's start, or for loading or writing a model",
        above=0,
    )


@dataclass
class WarmStartConfig:
    """Supervised fine-tuning on demonstrations (`ray_jobs.warm_start`)."""

    steps: int = setting(1000, help="optimizer steps")
    batch_size: int = setting(32, help="demonstrations of a step", least=1)
    output: str = setting("runs/warm_start/policy", help="folder for the policy")
    checkpoint_every: int = setting(
        200, help="steps between checkpoints; 0: only at a stop", least=0
    )
    bf16: bool = setting(False, help="write the policy in bfloat16: half the size")
    mask_loss: float = setting(1.0, help="mask.loss during the warm start", least=0)
    mask_bce: float = setting(2.0, help="mask.bce during the warm start", least=0)
    mask_dice: float = setting(0.5, help="mask.dice during the warm start", least=0)
    mask_points: int = setting(
        12544, help="mask.points during the warm start; small masks use all their pixels", least=0
    )


@dataclass
class PrepareConfig:
    """Checking and preparing a data set (`ray_jobs.prepare`)."""

    steps: list[Literal["check", "fit", "tables", "filter", "statistics", "sheet"]] = setting(
        ["check", "fit", "tables", "statistics", "sheet"],
        help="steps to run (see ray_jobs.prepare)",
    )
    output: str = setting(
        "", help="folder with one folder for each split; empty: <data.root>/prepared"
    )
    workers: int = setting(
        4, help="processes that decode; step filter uses segmenter.workers", least=1
    )
    memory_mb: int = setting(
        2048,
        help="most memory for the files of one video, or for the annotations of a split",
        least=64,
    )
    filter_iou: float = setting(
        0.6,
        help="step filter: least mean IoU of segmenter and labels; videos below are dropped",
        least=0,
        most=1,
    )
    sheet_rows: int = setting(8, help="step sheet: sentences on the contact sheet", least=1)
    sheet_frames: int = setting(6, help="step sheet: frames of each sentence", least=1)


@dataclass
class DifficultyConfig:
    """Ratings of how hard each sentence is (`ray_jobs.rate_difficulty`), for length budgets."""

    folder: str = setting(
        "", help="folder of ratings; empty: training reads none, and the job writes below data.root"
    )
    rater: Literal["policy", "generator"] = setting(
        "policy",
        help="policy: the model of policy.path; generator: the synthetic data's known answer",
    )
    splits: list[str] = setting([], help="splits to rate; empty: the existing ones of `data`")
    num_frames: int = setting(8, help="frames shown to the rater, sampled uniformly")
    frame_side: int = setting(336, help="side of a shown frame in pixels")
    max_tokens: int = setting(256, help="most tokens of a rating")
    attempts: int = setting(
        3, help="most attempts until all five ratings can be read; the first is greedy", least=1
    )
    temperature: float = setting(0.7, help="sampling temperature of the later attempts")


@dataclass
class Config:
    """All settings of one job."""

    name: str = setting("run", help="the run folder is <runs>/<name>", identifies=())
    runs: str = setting("runs", help="folder of the run folders", identifies=())
    seed: int = setting(0, help="seed of every random number", identifies=(RUN, PREDICTIONS))
    allow_resolvers: bool = setting(
        False,
        help="let a preset from elsewhere use resolvers such as ${oc.env:NAME}, which read the "
        "environment; on the command line only",
        identifies=(),
    )
    policy: PolicyConfig = section(PolicyConfig, identifies=[RUN])
    data: DataConfig = section(DataConfig, identifies=[RUN])
    system: SystemConfig = section(SystemConfig, identifies=[RUN])
    rollout: RolloutConfig = section(RolloutConfig, identifies=[RUN])
    grpo: GrpoConfig = section(GrpoConfig, identifies=[RUN])
    learner: LearnerConfig = section(LearnerConfig, identifies=[RUN])
    reward: RewardConfig = section(RewardConfig, identifies=())
    segmenter: SegmenterConfig = section(SegmenterConfig, identifies=[RUN])
    mask: MaskConfig = section(MaskConfig, identifies=[RUN])
    train: TrainConfig = section(TrainConfig, identifies=())
    tracking: TrackingConfig = section(TrackingConfig, identifies=())
    record: RecordConfig = section(RecordConfig, identifies=())
    cluster: ClusterConfig = section(ClusterConfig, identifies=())
    warm_start: WarmStartConfig = section(WarmStartConfig, identifies=())
    evaluate: EvaluateConfig = section(EvaluateConfig, identifies=())
    prepare: PrepareConfig = section(PrepareConfig, identifies=())
    difficulty: DifficultyConfig = section(DifficultyConfig, identifies=[RUN])
