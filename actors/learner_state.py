"""Checkpoint of a learner: policy, optimizer and random states. Collective over all ranks.

The folder of a checkpoint:

    policy/             Hugging Face folder with the processor's files; adapters are merged
    policy/mask_head/   mask head, if the policy has one
    adapter/            with LoRA, in peft's format
    deepspeed/          optimizer states
    learner.json        settings and counts for a resuming run to agree with
    rng_<rank>.pt       random states
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed import DeepSpeedEngine

from actors.architecture import check_architecture
from actors.whole_weights import adapter_state, gathered, whole_state
from models.policy import lora
from models.policy.older_versions import add_old_names

# Name of DeepSpeed's subfolder.
_TAG = "state"


def save(engine: DeepSpeedEngine, folder: Path, source: Path, updates: int) -> None:
    """Write a checkpoint.

    Args:
        folder: an existing folder within reach of all ranks.
        source: folder of the policy before training.
        updates: number of optimizer steps done.
    """
    # All ranks gather, and the first one writes.
    state = whole_state(engine)
    adapter = adapter_state(engine)
    rank = torch.distributed.get_rank()
    if rank == 0:
        vlm = engine.module.vlm
        vlm.save_pretrained(folder / "policy", state_dict=state)
        copy_processor(source, folder / "policy")
        add_old_names(folder / "policy")
        if adapter:
            lora.write(vlm, adapter, folder / "adapter")
        facts = {
            "updates": updates,
            "ranks": torch.distributed.get_world_size(),
            "lora_rank": lora.rank(vlm),
            "zero_stage": engine.zero_optimization_stage(),
        }
        (folder / "learner.json").write_text(json.dumps(facts))

    head = getattr(engine.module, "head", None)
    if head is not None:
        with gathered(engine, list(head.parameters())):
            if rank == 0:
                head.save(folder / "policy")

    # Optimizer and random states: each rank has its own.
    engine.save_checkpoint(str(folder / "deepspeed"), tag=_TAG)
    torch.save(random_states(), folder / f"rng_{rank}.pt")
    torch.distributed.barrier()


def load(engine: DeepSpeedEngine, folder: Path) -> int:
    """Restore a checkpoint; return the number of optimizer steps done.

    Raises:
        ValueError: the checkpoint has another architecture, number of ranks, ZeRO stage or LoRA
            rank.
    """
    check_architecture(engine.module.vlm.config, folder / "policy")
    facts = json.loads((folder / "learner.json").read_text())
    here = {
        "ranks": ("learner.world_size", torch.distributed.get_world_size()),
        "zero_stage": ("learner.zero_stage", engine.zero_optimization_stage()),
        "lora_rank": ("learner.lora_rank", lora.rank(engine.module.vlm)),
    }
    for name, (setting, value) in here.items():
        written = facts.get(name, 0)
        if written != value:
            raise ValueError(
                f"checkpoint {folder} was written with {setting}={written}, this run has {value}"
            )
    engine.load_checkpoint(str(folder / "deepspeed"), tag=_TAG)
    rank = torch.distributed.get_rank()
    restore_random_states(torch.load(folder / f"rng_{rank}.pt", weights_only=True))
    return int(facts["updates"])


def copy_processor(source: Path, target: Path) -> None:
    """Copy tokenizer, chat template and processor settings. Training does not change them."""
    for file in source.iterdir():
        is_weights = file.name.startswith(("model", "pytorch_model"))
        is_weights = is_weights or file.suffix in (".safetensors", ".bin")
        if file.is_file() and not is_weights and not (target / file.name).exists():
            shutil.copy2(file, target / file.name)


def random_states() -> dict[str, Any]:
    """Return the random states of Python, NumPy and PyTorch, loadable with `weights_only`."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    keys_tensor = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    cuda: list[torch.Tensor] = []
    if torch.cuda.is_available():
        cuda = torch.cuda.get_rng_state_all()
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "python": (version, list(numbers), gauss),
        "numpy": (name, keys_tensor, position, has_gauss, cached),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set random states as `random_states` returned them."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
