"""Settings of an engine. All differences between CPU and GPU are in `engine_args`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.families import Family, family_of

# The name of this project's weight transfer in `cluster.weight_backend`: the bytes come from shared
# memory, or out of Ray's object store.
OBJECT_STORE = "object_store"
# The same for adapters alone (`models.engine.adapter_transfer`).
ADAPTER_STORE = "adapter_store"

# Widths for which vLLM's LoRA has room; an adapter takes the next larger one.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

# Up to this vocabulary the allowed ids travel with a request; above it, the few banned ones.
SMALL_VOCABULARY = 8192

# Added to the logit of a banned id: its probability is exactly 0 in float32.
BANNED_BIAS = -1e9

# Processed images that vLLM keeps on a CPU: those of the prompts of a step, which a group asks for
# again. vLLM's own 4 GiB would fill with frames of past steps.
PROCESSED_GIB = 0.5


@dataclass(frozen=True)
class AdapterSettings:
    """The adapter that an engine takes in place of whole weights (`learner.lora_*`)."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True)
class EngineSettings:
    """Settings of one vLLM engine.

    Attributes:
        path: Hugging Face folder of the policy.
        device: cpu or cuda.
        dtype: float32 or bfloat16.
        max_model_len: tokens of a whole dialogue.
        max_num_seqs: requests decoded together.
        max_images: images of a whole dialogue.
        kv_cache_bytes: size of the KV cache; CPU only.
        gpu_memory_utilization: share of the GPU's memory; GPU only.
        tensor_parallel: GPUs of one engine; GPU only.
        weight_backend: object_store, nccl or ipc.
        adapter: set if a version of the weights is an adapter; None: the whole policy.
        seed: vLLM's own seed. Requests carry seeds of their own.
        system_message: message before the first turn; empty for none.
    """

    path: str
    device: str = "cpu"
    dtype: str = "float32"
    max_model_len: int = 2048
    max_num_seqs: int = 64
    max_images: int = 64
    kv_cache_bytes: int = 256 << 20
    gpu_memory_utilization: float = 0.6
    tensor_parallel: int = 1
    weight_backend: str = OBJECT_STORE
    adapter: AdapterSettings | None = None
    seed: int = 0
    system_message: str = ""


def engine_args(settings: EngineSettings) -> dict[str, Any]:
    """Return the arguments of vLLM's `AsyncEngineArgs`."""
    from vllm.config import WeightTransferConfig

    backend = settings.weight_backend if settings.adapter is None else ADAPTER_STORE
    shared = {
        "model": settings.path,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "limit_mm_per_prompt": {"image": settings.max_images, "video": 0},
        "mm_processor_kwargs": processor_kwargs(family_of(settings.path)),
        # Episodes of a group share their prompt; a second turn shares the first.
        "enable_prefix_caching": True,
        # Log-probs of the distribution that was sampled from, temperature and bans included.
        "logprobs_mode": "processed_logprobs",
        # Else the folder's generation_config.json would set top_k and penalties.
        "generation_config": "vllm",
        "disable_log_stats": True,
        "seed": settings.seed,
        "weight_transfer_config": WeightTransferConfig(backend=backend),
    }
    if settings.adapter is not None:
        shared |= lora_args(settings.adapter)
    if settings.device != "cpu":
        args: dict[str, Any] = {
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "tensor_parallel_size": settings.tensor_parallel,
        }
        if settings.tensor_parallel > 1:
            # Inside a placement group vLLM would start Ray actors on GPUs that this actor holds.
            args["distributed_executor_backend"] = "mp"
        return shared | args

    return shared | {
        "enforce_eager": True,
        # The block of the CPU attention.
        "block_size": 32,
        # The environment variable for the same thing counts in whole GiB.
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        # No prompt may be cut into chunks: after a cut vLLM 0.32 turns the request's random
        # generator back. CPU generators cannot do that ("CPU Generator does not use offset"), and
        # the engine dies.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": settings.max_num_seqs * settings.max_model_len,
        "mm_processor_cache_gb": PROCESSED_GIB,
    }


def lora_args(adapter: AdapterSettings) -> dict[str, Any]:
    """Return vLLM's arguments for one adapter in the layers that it has."""
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next(rank for rank in LORA_RANKS if rank >= adapter.rank),
        "lora_target_modules": list(adapter.targets),
    }


def processor_kwargs(family: Family) -> dict[str, Any]:
    """Return vLLM's arguments for each call of the folder's processor.

    Sizes are the family's, as in the learner. `min_pixels` and `max_pixels` in their place are
    deprecated in transformers.
    """
    return {"images_kwargs": {"size": family.processor_size}}


def ban(allowed: Sequence[int], vocabulary: int) -> dict[str, Any]:
    """Return sampling arguments to sample the allowed ids only.

    A list of 150,000 allowed ids in each request would cost more than the request, so for a big
    vocabulary the few hundred banned ids are named instead.
    """
    if vocabulary <= SMALL_VOCABULARY:
        return {"allowed_token_ids": list(allowed)}
    banned = sorted(set(range(vocabulary)) - set(allowed))
    return {"logit_bias": dict.fromkeys(banned, BANNED_BIAS)}
