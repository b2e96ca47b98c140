"""Low-rank adapters (LoRA, arXiv 2106.09685) on the language model's linear layers, by peft, and the weights with and
without them.

The vision-language model itself is changed in place, so that all else goes on calling it by its own names. Knows no
optimizer and no process; where weights are sharded the caller gathers `Weight.parts` first.
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
from torch import Tensor, nn

_NAME = "default"  # peft's own name of an adapter


@dataclass(frozen=True)
class Lora:
    """`alpha` / `rank` scales the adapter. `targets`: last parts of the names of the language model's linear layers."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Weight:
    """One weight as the engine knows it: `base`, and what an adapter adds to it."""

    base: Tensor
    down_RI: Tensor | None = None
    up_OR: Tensor | None = None
    scale: float = 0.0

    @property
    def parts(self) -> list[Tensor]:
        return [t for t in (self.base, self.down_RI, self.up_OR) if t is not None]

    def merged(self) -> Tensor:
        """base + scale * up @ down, added in fp32, in the base's type; the base itself where there is no adapter."""
        if self.down_RI is None or self.up_OR is None:
            return self.base.detach()
        change_OI = self.scale * (self.up_OR.detach().float() @ self.down_RI.detach().float())
        return (self.base.detach().float() + change_OI).to(self.base.dtype)


def add(vlm: nn.Module, lora: Lora) -> None:
    """Adapters that change nothing yet (up is 0); all else is frozen. Raises ValueError for unknown targets."""
    linear = [
        n
        for n, m in vlm.named_modules()
        if isinstance(m, nn.Linear) and ".language_model." in f".{n}."
    ]
    known = {name.rsplit(".", 1)[-1] for name in linear}
    unknown = [t for t in lora.targets if t not in known]
    if unknown or not lora.targets:
        raise ValueError(
            f"learner.lora_targets={list(lora.targets)}: some of {', '.join(sorted(known))}"
        )
    names = "|".join(re.escape(t) for t in lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",  # type: ignore[arg-type]
        target_modules=rf"(?:.*\.)?language_model\.(?:.*\.)?(?:{names})",
    )
    inject_adapter_in_model(config, vlm)
    for name, parameter in vlm.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def layers(vlm: nn.Module) -> dict[str, Any]:
    """The layers with an adapter, by the name they had before; empty without LoRA."""
    return {name: module for name, module in vlm.named_modules() if isinstance(module, LoraLayer)}


def rank(vlm: nn.Module) -> int:
    """0 without LoRA."""
    return next((layer.r[_NAME] for layer in layers(vlm).values()), 0)


@contextmanager
def off(vlm: nn.Module) -> Iterator[None]:
    """The base alone, for forwards without gradient; no graph of the policy may be alive meanwhile."""
    found = layers(vlm).values()
    for layer in found:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in found:
            layer.enable_adapters(True)


def weights(vlm: nn.Module) -> dict[str, Weight]:
    """The model's `state_dict` by the names that it has without adapters."""
    adapted = layers(vlm)
    found = {}
    for name, tensor in vlm.state_dict(keep_vars=True).items():
        if ".lora_" in name:
            continue
        prefix, inner, rest = name.partition(".base_layer.")
        if inner and rest == "weight":
            layer = adapted[prefix]
            down = layer.lora_A[_NAME].weight
            up = layer.lora_B[_NAME].weight
            found[f"{prefix}.weight"] = Weight(tensor, down, up, layer.scaling[_NAME])
        else:
            found[f"{prefix}.{rest}" if inner else name] = Weight(tensor)
    return found


def adapter(vlm: nn.Module) -> dict[str, Tensor]:
    """The adapter's own parameters by the names of peft's file format."""
    found = {}
    for prefix, layer in layers(vlm).items():
        found[f"base_model.model.{prefix}.lora_A.weight"] = layer.lora_A[_NAME].weight
        found[f"base_model.model.{prefix}.lora_B.weight"] = layer.lora_B[_NAME].weight
    return found


def write(vlm: Any, state: dict[str, Tensor], folder: Path) -> None:
    """`state` (whole tensors of `adapter`) as a folder that `peft.PeftModel.from_pretrained` reads."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "adapter_model.safetensors")
    vlm.peft_config[_NAME].save_pretrained(str(folder))
