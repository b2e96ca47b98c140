"""Environment variables for every process of a run, on CPU and on GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from core.shared_file import FRAME_STORE

# Frames that a group is shown, as a rule: those of its prompt, and one or two for each episode.
GROUP_FRAMES = 32
# Of 720p.
FRAME_BYTES = 1280 * 720 * 3


def torch_extensions_dir() -> str:
    """Return the folder of DeepSpeed's compiled operators: one for each Python environment."""
    default = Path(sys.prefix) / "share" / "rayvos" / "torch_extensions"
    return os.environ.get("TORCH_EXTENSIONS_DIR") or str(default)


def common_env() -> dict[str, str]:
    """Return the variables for CPU and GPU alike: quiet libraries, no usage statistics."""
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
    """Return the variables on CPU.

    Args:
        one_node: all processes are on this machine, so they can talk over the loopback.
    """
    env = common_env()
    # With two threads on two cores vLLM's engine is an order of magnitude slower than with one.
    env["OMP_NUM_THREADS"] = "1"
    # Otherwise the first request with log-probs compiles for up to 17 s.
    env["TORCHDYNAMO_DISABLE"] = "1"
    env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    env["DS_ACCELERATOR"] = "cpu"
    if one_node:
        env["GLOO_SOCKET_IFNAME"] = "lo"
    return env


def store_env(prompts: int) -> dict[str, str]:
    """Return the variable with the bytes that a node keeps of decoded frames: those of a step.

    Args:
        prompts: of all steps that are under way.
    """
    return {FRAME_STORE: str(prompts * GROUP_FRAMES * FRAME_BYTES)}


def offline_env() -> dict[str, str]:
    """Return the variables against look-ups on a model hub."""
    return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
