"""Checkpoint of a learner: policy, optimizer and random states.

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
from contextlib import suppress
from dataclasses import dataclass
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
from actors.save_marks import mark_of
from actors.whole_weights import adapter_state, gathered, whole_state
from core.files import write_atomic
from models.policy import lora
from models.policy.older_versions import add_old_names

# Bytes at the start of a file of weights that tell it from others: header and first tensors.
FINGERPRINT_BYTES = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """Everything that a rank writes into a checkpoint, in CPU memory.

    Attributes:
        engine: The engine, whose policy knows its file formats.
        source: Folder of the policy before training.
        rank: Number of this rank.
        optimizer: Its pieces (`optimizer_pieces.snapshot`).
        random: Its random states (`random_states`).
        facts: Contents of learner.json, on the first rank.
        policy: The policy's whole weights, on the first rank.
        adapter: Those of its adapter.
        head: Those of its mask head.
    """

    engine: DeepSpeedEngine
    source: Path
    rank: int
    optimizer: dict[str, Tensor]
    random: tuple[dict[str, Tensor], dict[str, str]]
    facts: dict[str, Any]
    policy: dict[str, Tensor]
    adapter: dict[str, Tensor]
    head: dict[str, Tensor]

    @classmethod
    def take(
        cls, engine: DeepSpeedEngine, source: Path, updates: int, copy: bool = True
    ) -> Snapshot:
        """Copy the state of a rank. Collective.

        Args:
            copy: without it the optimizer must not make a step before `write` has ended.
        """
        return cls(
            engine=engine,
            source=source,
            rank=torch.distributed.get_rank(),
            optimizer=optimizer_pieces.snapshot(engine, copy),
            random=random_states(),
            facts=facts_of(engine, source, updates),
            policy=whole_state(engine),
            adapter=adapter_state(engine),
            head=head_tensors(engine),
        )

    def write(self, folder: Path) -> None:
        """Write this rank's files into an existing folder. The engine may learn on meanwhile."""
        if self.rank == 0:
            self._write_policy(folder)
            (folder / "learner.json").write_text(json.dumps(self.facts))
        own = f"rank_{self.rank}.safetensors"
        for name in ("optimizer", "random"):
            (folder / name).mkdir(exist_ok=True)
        save_file(self.optimizer, folder / "optimizer" / own)
        tensors, texts = self.random
        save_file(tensors, folder / "random" / own, metadata=texts)

    def _write_policy(self, folder: Path) -> None:
        module = self.engine.module
        module.vlm.save_pretrained(folder / "policy", state_dict=self.policy)
        copy_processor(self.source, folder / "policy")
        add_old_names(folder / "policy")
        if self.adapter:
            lora.write(module.vlm, self.adapter, folder / "adapter")
        if self.head:
            module.head.save(folder / "policy", self.head)


def write_beside(snapshot: Snapshot, folder: Path) -> None:
    """Write a snapshot, then the mark of its rank: empty, or with what went wrong."""
    problem = ""
    try:
        snapshot.write(folder)
    except Exception as error:
        # The thread's boundary: its waiter raises it.
        problem = f"rank {snapshot.rank}: {type(error).__name__}: {error}"
    mark = mark_of(folder, snapshot.rank)
    with suppress(OSError):
        write_atomic(mark, problem)


def head_tensors(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """Return copies of the mask head's tensors on rank 0; empty elsewhere, and without a head."""
    head = getattr(engine.module, "head", None)
    copies: dict[str, Tensor] = {}
    if head is None:
        return copies
    with gathered(engine, list(head.parameters())):
        if torch.distributed.get_rank() == 0:
            for name, tensor in head.state_dict().items():
                copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return copies


def load(engine: DeepSpeedEngine, folder: Path, source: Path) -> int:
    """Restore a checkpoint; return the number of optimizer steps done. Collective.

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
