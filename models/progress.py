"""Signs of progress from inside a model: on a CPU one row or image may take minutes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from core.pulse import tick


def show_progress(model: nn.Module) -> None:
    """Let each block of the model tick, in forward and backward passes."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                block.register_forward_hook(_after_block)


def _after_block(block: nn.Module, inputs: Any, output: Any) -> None:
    tick()
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(_before_its_gradient)


def _before_its_gradient(gradient: Tensor) -> None:
    tick()
