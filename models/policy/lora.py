"""Low-rank adapters (LoRA, arXiv 2106.09685) on the language model's linear layers, by peft.

The vision-language model is changed in place: other code keeps calling it by its own names. Under
sharding the caller gathers `Weight.parts` first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from models.families import Family

# Peft's name of an adapter.
_NAME = "default"


@dataclass(frozen=True)
class Lora:
    """Settings of an adapter.

    Attributes:
        rank: width of the adapter.
        alpha: `alpha / rank` scales the adapter's output.
        targets: last parts of the names of the adapted linear layers.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Weight:
    """One weight as the engine knows it, and the adapter's part in it.

    Attributes:
        base: the weight without the adapter.
        down_RI, up_OR: the adapter's factors; None without an adapter.
        scale: factor of their product.
    """

    base: Tensor
    down_RI: Tensor | None = None
    up_OR: Tensor | None = None
    scale: float = 0.0

    @property
    def parts(self) -> list[Tensor]:
        """All tensors read by `merged`."""
        if self.down_RI is None or self.up_OR is None:
            return [self.base]
        return [self.base, self.down_RI, self.up_OR]

    def merged(self) -> Tensor:
        """Return base + scale * up @ down, added in fp32, in the base's type.

        Without an adapter it is the base itself.
        """
        base = self.base.detach()
        if self.down_RI is None or self.up_OR is None:
            return base
        up_OR = self.up_OR.detach().float()
        down_RI = self.down_RI.detach().float()
        change_OI = self.scale * (up_OR @ down_RI)
        return (base.float() + change_OI).to(base.dtype)


def add(vlm: nn.Module, lora: Lora, family: Family) -> None:
    """Add adapters to the language model and freeze all other weights.

    They change nothing yet: `up` is 0.

    Raises:
        ValueError: no targets, or a target unknown to the language model.
    """
    known = _linear_layers(vlm, family.language_model)
    unknown = set(lora.targets) - known
    if unknown or not lora.targets:
        raise ValueError(
            f"learner.lora_targets={list(lora.targets)}: some of {', '.join(sorted(known))}"
        )

    names = "|".join(re.escape(target) for target in lora.targets)
    module = re.escape(family.language_model)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",  # type: ignore[arg-type]
        target_modules=rf"(?:.*\.)?{module}\.(?:.*\.)?(?:{names})",
    )
    inject_adapter_in_model(config, vlm)
    for name, parameter in vlm.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def _linear_layers(vlm: nn.Module, language_model: str) -> set[str]:
    """Return the last parts of the names of the language model's linear layers."""
    found = set()
    for name, module in vlm.named_modules():
        inside = f".{language_model}." in f".{name}."
        if inside and isinstance(module, nn.Linear):
            found.add(name.rsplit(".", 1)[-1])
    return found


def layers(vlm: nn.Module) -> dict[str, Any]:
    """Return the layers with an adapter, by the names they had without it; empty without LoRA."""
    found = {}
    for name, module in vlm.named_modules():
        if isinstance(module, LoraLayer):
            found[name] = module
    return found


def rank(vlm: nn.Module) -> int:
    """Return the adapters' rank; 0 without LoRA."""
    for layer in layers(vlm).values():
        return int(layer.r[_NAME])
    return 0


@contextmanager
def off(vlm: nn.Module) -> Iterator[None]:
    """Turn the adapters off, for forwards without gradient.

    No graph of the policy may be alive meanwhile.
    """
    adapted = layers(vlm).values()
    for layer in adapted:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted:
            layer.enable_adapters(True)


def weights(vlm: nn.Module) -> dict[str, Weight]:
    """Return the model's `state_dict` by the names it has without adapters."""
    adapted = layers(vlm)
    found = {}
    for name, tensor in vlm.state_dict(keep_vars=True).items():
        if ".lora_" in name:
            continue
        if ".base_layer." not in name:
            found[name] = Weight(tensor)
            continue

        prefix, _, last = name.partition(".base_layer.")
        plain_name = f"{prefix}.{last}"
        if last == "weight":
            layer = adapted[prefix]
            down_RI = layer.lora_A[_NAME].weight
            up_OR = layer.lora_B[_NAME].weight
            found[plain_name] = Weight(tensor, down_RI, up_OR, layer.scaling[_NAME])
        else:
            found[plain_name] = Weight(tensor)
    return found


def adapter(vlm: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's own parameters by the names of peft's file format."""
    found = {}
    for prefix, layer in layers(vlm).items():
        found[f"base_model.model.{prefix}.lora_A.weight"] = layer.lora_A[_NAME].weight
        found[f"base_model.model.{prefix}.lora_B.weight"] = layer.lora_B[_NAME].weight
    return found


def write(vlm: Any, state: dict[str, Tensor], folder: Path) -> None:
    """Write `state`, whole tensors of `adapter`, as a folder for peft's `from_pretrained`."""
    folder.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    vlm.peft_config[_NAME].save_pretrained(str(folder))
