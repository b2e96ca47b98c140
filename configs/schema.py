"""Every setting of rayvos, typed and documented in one place.

Presets are YAML files beside this one; `configs.load` merges preset, then `key=value` overrides, into `Config`.
This file knows no torch, no ray and no paper's code. Numbers here are neutral defaults; a paper's numbers stand,
with their source, in its preset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LINEAR = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)  # of a Qwen decoder layer


@dataclass
class PolicyConfig:
    path: str = (
        "tiny/weights/revseg"  # Hugging Face folder; relative paths are relative to the repository
    )
    dtype: str = "float32"  # compute type of engine and learner: float32 | bfloat16
    attention: str = "auto"  # learner's tree attention: auto | split | flex (GPU)


@dataclass
class DataConfig:
    format: str = "mevis"  # a reader of data/load.py; for a name that is none, the error lists them
    root: str = "datasets/synthetic"  # holds one folder for each split; made when absent if `synthetic` is true
    synthetic: bool = False  # make the synthetic data set under `root` when it is not there
    length: str = "short"  # synthetic only: short, 24 frames a video | long, 96, and each shape in 8 to 12 of them
    train_split: str = "train"
    eval_split: str = "valid"  # what training watches
    test_split: str = "test"  # what the before/after table is measured on
    no_target: str = "skip"  # samples without a target: skip | keep
    hints: str = (
        ""  # folder of what a frozen policy found on the side; empty: the run's own, which it makes
    )
    keep_file: str = (
        ""  # keep.json of `ray_jobs.prepare`: train only on the videos that it keeps; empty: on all
    )


@dataclass
class SystemConfig:
    name: str = "revseg"
    options: dict[str, Any] = field(
        default_factory=dict
    )  # fields of the system's own options dataclass


@dataclass
class RolloutConfig:
    workers: int = 1
    group_size: int = 8  # episodes of a prompt (G)
    prompts_per_step: int = 16  # P
    temperature: float = 1.0
    top_p: float = 1.0
    max_model_len: int = 2048
    max_num_seqs: int = 64
    kv_cache_bytes: int = 268435456
    gpu_memory_utilization: float = 0.6  # GPU only
    tensor_parallel: int = 1
    max_failed_share: float = 0.05  # of a step's episodes; above it the run stops
    max_staleness: int = 0  # 0: strictly on policy | 1: play the next step while learning this one


@dataclass
class GrpoConfig:
    loss: str = "grpo"  # core/losses: grpo | dual_clip | gspo | cispo
    advantage_std: bool = True  # divide by the group's standard deviation
    advantage_eps: float = 1e-6
    clip_low: float = (
        0.2  # of a token's ratio; gspo clips that of an episode: its authors take 3e-4 and 4e-4
    )
    clip_high: float = 0.2
    dual_clip: float = 3.0  # dual_clip only: bound of the ratio where the advantage is negative
    kl_coef: float = 0.0
    kl_estimator: str = "k3"  # k1 | k2 | k3
    aggregation: str = "token_mean"  # token_mean | sequence_mean | dr_grpo
    importance: str = "token"  # importance weights learner / engine: token | sequence
    importance_cap: float = (
        2.0  # above it they are cut off; used off-policy only, reported always; 0 switches them off
    )
    entropy_coef: float = 0.0
    per_turn_credit: bool = (
        False  # ours: a turn is credited only with the reward that comes after it
    )


@dataclass
class LearnerConfig:
    world_size: int = 1
    zero_stage: int = 1
    lr: float = 1e-6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    schedule: str = "constant"  # constant | linear | cosine
    grad_clip: float = 1.0
    freeze_vision: bool = False
    row_tokens: int = 4096  # token budget of a tree row
    offload_optimizer: bool = False  # optimizer states and steps on the CPU (DeepSpeed's CPU AdamW)
    offload_reference: bool = (
        False  # kl_coef > 0 without LoRA: the frozen copy lies in CPU memory between batches
    )
    lora_rank: int = 0  # above 0: low-rank adapters are trained and all else is frozen; the engine gets merged weights
    lora_alpha: float = 32.0  # adapters are scaled by lora_alpha / lora_rank
    lora_targets: list[str] = field(
        default_factory=lambda: [*LINEAR]
    )  # linear layers of the language model
    gradient_checkpointing: bool = False
    optimizer_steps: int = 1  # optimizer steps on one batch; above 1 the clipping matters
    max_bad_steps: int = (
        3  # steps in a row with a loss or gradient that is not finite: skipped, then the run stops
    )


@dataclass
class RewardConfig:
    workers: int = 1
    timeout_s: float = 300.0


@dataclass
class SegmenterConfig:
    kind: str = "sam2"  # sam2 | sam2_xmem | grabcut
    path: str = "tiny/weights/segmenter"  # tiny: a folder with config.json and model.safetensors; else a SAM2 checkpoint
    config: str = (
        ""  # name of an official SAM2 shape (e.g. hiera_l) when `path` is an official checkpoint
    )
    workers: int = 1
    xmem_path: str = ""  # sam2_xmem only: a local checkout of the official XMem repository
    xmem_weights: str = ""  # and its weights, XMem.pth
    xmem_size: int = (
        480  # short side of the frames that XMem sees, in pixels, at least 96; 0: the frames' own
    )


@dataclass
class MaskConfig:
    """Of a policy that draws masks itself: a head on its hidden states decodes them, over segmenter.path's SAM 2."""

    token: str = ""  # at which it draws, e.g. "[SEG]"; empty: it draws nothing and has no mask head
    calibration: float = (
        1.0  # weight of a drawn mask's log-likelihood in its token's log-prob; 0: off
    )
    threshold: float = (
        0.5  # on logits: above it a pixel of the mask that calibration remembers is set
    )
    loss: float = 0.2  # weight of the supervised mask losses beside the policy's; 0: off
    bce: float = 1.0  # of the binary cross-entropy in them
    dice: float = 1.0
    points: int = 0  # of a mask at which these losses are taken, three quarters where it is least sure; 0: all pixels
    redraw: bool = False  # tracking draws anew on every frame, from the token; else SAM 2 follows the first mask
    fresh: bool = False  # make a new head where the policy has none; ray_jobs.warm_start does


@dataclass
class TrainConfig:
    steps: int = 100
    checkpoint_every: int = 0  # 0: only at the end
    keep_checkpoints: int = 0  # the newest ones, and `best`; older ones are removed; 0: all stay
    eval_every: int = 0  # 0: only before and after
    eval_before: bool = True  # measure the policy before the first step, too
    eval_samples: int = 200  # expressions of the test split, before and after
    sampled_repeats: int = 1  # T = 1 episodes for each expression in the sampled evaluation
    max_logprob_gap: float = 1e-4  # mean |engine - learner|; above it the run stops
    resume: str = "auto"  # auto | never | a checkpoint folder


@dataclass
class EvaluateConfig:
    """Measuring a policy on a benchmark (`ray_jobs.evaluate`), on `data.test_split`."""

    samples: int = 0  # the first expressions of the split; 0: all
    protocol: str = "auto"  # auto | mean | by_kind | revos | images | davis_4_annotators | binary_per_expression
    chunk: int = 32  # expressions that are segmented and written together: what a kill may cost
    resume: str = "auto"  # auto: go on with what is finished | never


@dataclass
class TrackingConfig:
    mlflow_uri: str = "sqlite:///mlflow.db"  # empty: no MLflow
    experiment: str = "rayvos"


@dataclass
class ClusterConfig:
    address: str = ""  # empty: a local head, or the job's own cluster
    use_gpu: str = "auto"  # auto | yes | no
    weight_backend: str = "object_store"  # object_store | nccl | ipc


@dataclass
class WarmStartConfig:
    """Supervised fine-tuning (`ray_jobs.warm_start`)."""

    steps: int = 1000
    batch_size: int = 32
    output: str = "runs/warm_start/policy"
    bf16: bool = False  # write the folder in bfloat16: half the size
    mask_loss: float = (
        1.0  # mask.token only: as mask.loss, mask.bce, mask.dice and mask.points in training
    )
    mask_bce: float = 2.0
    mask_dice: float = 0.5
    mask_points: int = 12544  # the tiny decoder's masks have fewer pixels: all of them


@dataclass
class PrepareConfig:
    """Checking and preparing a data set (`ray_jobs.prepare`)."""

    steps: list[str] = field(
        default_factory=lambda: ["check", "tables", "statistics", "sheet"]
    )  # or filter, mixing
    output: str = (
        ""  # folder for what is made, one folder in it for each split; empty: <data.root>/prepared
    )
    workers: int = 4  # processes that decode; the filter's are segmenter.workers
    filter_iou: float = (
        0.6  # step filter: a video whose labels the segmenter meets worse than this is dropped
    )
    sheet_rows: int = 8  # step sheet: sentences on the contact sheet
    sheet_frames: int = 6  # and frames of each
    mix: list[str] = field(
        default_factory=list
    )  # step mixing: folders of splits, such as <root>/prepared/train
    mix_weights: list[float] = field(
        default_factory=list
    )  # one for each folder; empty: by size and temperature
    mix_temperature: float = (
        1.0  # probability ~ size ** (1 / temperature); 1: by size, large: equal shares
    )


@dataclass
class DifficultyConfig:
    """How hard each sentence is: rated once by `ray_jobs.rate_difficulty`, read by systems with a length budget."""

    folder: str = ""  # of ratings: training reads it (empty: none), the job writes it (empty: one below data.root)
    rater: str = "policy"  # policy: model of policy.path | generator: synthetic data's known truth, made when not there
    splits: list[str] = field(
        default_factory=list
    )  # to rate; empty: those of `data` that are there
    num_frames: int = 8  # shown to the rater, sampled uniformly
    frame_side: int = 336  # pixels, a multiple of 28
    max_tokens: int = 256  # of an answer
    attempts: int = 3  # answers asked for until all five ratings can be read; the first is greedy
    temperature: float = 0.7  # of the others


@dataclass
class Config:
    name: str = "run"  # the run folder is runs/<name>
    runs: str = "runs"
    seed: int = 0
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    system: SystemConfig = field(default_factory=SystemConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    difficulty: DifficultyConfig = field(default_factory=DifficultyConfig)
