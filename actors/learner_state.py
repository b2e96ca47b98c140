"""Checkpoint of a learner: policy, optimizer and random states. Collective over all ranks.

The folder of a checkpoint:

    policy/             Hugging Face folder with the processor's files; adapters are merged
    policy/mask_head/   mask head, if the policy has one
    adapter/            with LoRA, in peft's format
    optimizer/          weights and moments in float32, a file for each rank
    random/             random states, a file for each rank
    learner.json        settings and counts for a resuming run to agree with

All files are safetensors, JSON or text: a foreign checkpoint runs no code.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed import DeepSpeedEngine
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from actors import optimizer_pieces
from actors.architecture import check_architecture
from actors.whole_weights import adapter_state, gathered, whole_state
from models.policy import lora
from models.policy.older_versions import add_old_names

# Bytes at the start of a file of weights that tell it from others: header and first tensors.
FINGERPRINT_BYTES = 1 << 20


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
        facts = facts_of(engine, source, updates)
        (folder / "learner.json").write_text(json.dumps(facts))

    head = getattr(engine.module, "head", None)
    if head is not None:
        with gathered(engine, list(head.parameters())):
            if rank == 0:
                head.save(folder / "policy")

    # Optimizer and random states: each rank has its own.
    own = f"rank_{rank}.safetensors"
    for name in ("optimizer", "random"):
        (folder / name).mkdir(exist_ok=True)
    save_file(optimizer_pieces.snapshot(engine), folder / "optimizer" / own)
    tensors, texts = random_states()
    save_file(tensors, folder / "random" / own, metadata=texts)
    torch.distributed.barrier()


def load(engine: DeepSpeedEngine, folder: Path, source: Path) -> int:
    """Restore a checkpoint; return the number of optimizer steps done.

    The number of ranks and the ZeRO stage may be others than those of its writer.

    Args:
        source: folder of the policy before training.

    Raises:
        ValueError: the checkpoint has another architecture, LoRA rank, or other frozen weights.
    """
    check_architecture(engine.module.vlm.config, folder / "policy")
    facts = json.loads((folder / "learner.json").read_text())
    rank_here = lora.rank(engine.module.vlm)
    if facts["lora_rank"] != rank_here:
        raise ValueError(
            f"checkpoint {folder} was written with learner.lora_rank={facts['lora_rank']}, this "
            f"run has {rank_here}"
        )
    if facts["frozen"] != frozen_weights(engine, source):
        raise ValueError(
            f"checkpoint {folder} was trained from another policy than policy.path={source}, or "
            "with other frozen weights (learner.freeze_vision): give those of its run"
        )
    optimizer_pieces.restore(engine, folder / "optimizer", facts["adam_steps"])

    rank = torch.distributed.get_rank()
    own = folder / "random" / f"rank_{rank}.safetensors"
    if own.exists():
        restore_random_states(own)
    else:
        # A rank that the writer did not have.
        seed_all(facts["updates"] << 16 | rank)
    return int(facts["updates"])


def facts_of(engine: DeepSpeedEngine, source: Path, updates: int) -> dict[str, Any]:
    """Return the contents of learner.json."""
    return {
        "updates": updates,
        "adam_steps": optimizer_pieces.updates_of(engine),
        "ranks": torch.distributed.get_world_size(),
        "zero_stage": engine.zero_optimization_stage(),
        "lora_rank": lora.rank(engine.module.vlm),
        "frozen": frozen_weights(engine, source),
    }


def frozen_weights(engine: DeepSpeedEngine, source: Path) -> str:
    """Return a digest of the frozen weights, which a checkpoint does not hold; "" without any.

    It is one of their names and of the start of the policy's files.
    """
    digest = hashlib.sha256()
    frozen = 0
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            frozen += 1
            digest.update(name.encode())
    if frozen == 0:
        return ""
    for file in sorted(source.glob("*.safetensors")):
        with file.open("rb") as data:
            digest.update(data.read(FINGERPRINT_BYTES))
    return digest.hexdigest()


def copy_processor(source: Path, target: Path) -> None:
    """Copy tokenizer, chat template and processor settings. Training does not change them."""
    for file in source.iterdir():
        is_weights = file.name.startswith(("model", "pytorch_model"))
        is_weights = is_weights or file.suffix in (".safetensors", ".bin")
        if file.is_file() and not is_weights and not (target / file.name).exists():
            shutil.copy2(file, target / file.name)


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states() -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the random states of Python, NumPy and PyTorch: tensors, and the rest as JSON."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(numbers, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
    }
    if torch.cuda.is_available():
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda.{number}"] = state
    texts = {
        "python": json.dumps([version, gauss]),
        "numpy": json.dumps([name, int(position), int(has_gauss), float(cached)]),
    }
    return tensors, texts


def restore_random_states(file: Path) -> None:
    """Set random states from a file of `random_states`."""
    with safe_open(file, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        texts = opened.metadata()
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            state = tensors.get(f"cuda.{number}")
            if state is not None:
                torch.cuda.set_rng_state(state, number)
    version, gauss = json.loads(texts["python"])
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    name, *rest = json.loads(texts["numpy"])
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), *rest))
