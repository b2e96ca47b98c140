"""Linear layers by oneDNN, for inference on a CPU.

PyTorch multiplies matrices of float32 with MKL. On an AMD EPYC that takes two to three times as
long as oneDNN, which PyTorch has too and keeps for other dtypes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Products of a layer below which the preparations of oneDNN cost more than they save.
FEWEST_PRODUCTS = 1 << 20


class OneDnnLinear(nn.Linear):
    """A linear layer for float32."""

    def forward(self, input: Tensor) -> Tensor:
        products = input.numel() * self.out_features
        if products < FEWEST_PRODUCTS or torch.is_grad_enabled():
            return super().forward(input)
        # What `torch.compile` makes of a linear layer, without a function of its output.
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self.weight, self.bias, "none", [], ""
        )
        return found


def use_onednn(model: nn.Module) -> None:
    """Let the linear layers of a float32 model on a CPU use oneDNN, if PyTorch has it."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
