"""Linear layers by oneDNN give what PyTorch's own give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.segmenters.onednn import FEWEST_PRODUCTS, OneDnnLinear, use_onednn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [3, 2048])
def test_the_same_output(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 96, bias=bias)
    x_2RC = torch.randn(2, rows, 48)
    plain = layer(x_2RC)
    is_large = plain.numel() * 48 >= FEWEST_PRODUCTS
    assert is_large == (rows == 2048)
    names = list(layer.state_dict())

    model = nn.Sequential(layer)
    use_onednn(model)
    assert type(model[0]) is OneDnnLinear
    assert list(layer.state_dict()) == names
    with torch.inference_mode():
        found = model(x_2RC)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


def test_gradients_flow() -> None:
    layer = nn.Linear(48, 96)
    use_onednn(nn.Sequential(layer))
    layer(torch.randn(4096, 48)).sum().backward()
    assert layer.weight.grad is not None
