"""Environment variables that every process of a run needs, on CPU and on GPU. Knows no configuration and no Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def torch_extensions_dir() -> str:
    """Where DeepSpeed's compiled operators are kept, so that they are compiled once for an environment."""
    return os.environ.get("TORCH_EXTENSIONS_DIR") or str(
        Path(sys.prefix) / "share" / "rayvos" / "torch_extensions"
    )


def common_env() -> dict[str, str]:
    return {
        "TORCH_EXTENSIONS_DIR": torch_extensions_dir(),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": os.environ.get("TRANSFORMERS_VERBOSITY", "error"),
        "PYTHONWARNINGS": "ignore",
    }


def cpu_env(one_node: bool = True) -> dict[str, str]:
    """On CPU. One thread a process: vLLM's engine is an order of magnitude slower with two on two cores."""
    env = common_env() | {
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # else the first request with log-probs compiles for up to 17 s
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "DS_ACCELERATOR": "cpu",
    }
    return env | ({"GLOO_SOCKET_IFNAME": "lo"} if one_node else {})


def offline_env() -> dict[str, str]:
    """For the embedded default: nothing is to be looked up on a model hub."""
    return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
