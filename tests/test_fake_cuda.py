"""The pretended GPU: it refuses what CUDA refuses, allows the rest, counts and computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.fake_cuda import FakeCuda, Traffic, fake_cuda


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    with fake_cuda() as counts:
        yield counts


def put(values: Any) -> Callable[[Tensor, Tensor], None]:
    def assign(gpu_4: Tensor, cpu_4: Tensor) -> None:
        gpu_4[[0, 1]] = values(cpu_4)

    return assign


REFUSED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": lambda gpu_4, cpu_4: gpu_4 + cpu_4,
    "add from numpy": lambda gpu_4, cpu_4: gpu_4 + torch.from_numpy(np.ones(4, np.float32)),
    "cpu += gpu": lambda gpu_4, cpu_4: cpu_4.add_(gpu_4),
    "scalar += gpu": lambda gpu_4, cpu_4: cpu_4.sum().add_(gpu_4.sum()),
    "cat": lambda gpu_4, cpu_4: torch.cat([gpu_4, cpu_4]),
    "stack of scalars": lambda gpu_4, cpu_4: torch.stack([gpu_4.sum(), cpu_4.sum()]),
    "where": lambda gpu_4, cpu_4: torch.where(gpu_4 > 0, gpu_4, cpu_4),
    "where on the CPU": lambda gpu_4, cpu_4: torch.where(cpu_4 > 0, gpu_4, 0.0),
    "matmul": lambda gpu_4, cpu_4: gpu_4.reshape(2, 2) @ cpu_4.reshape(2, 2),
    "dot": lambda gpu_4, cpu_4: gpu_4 @ cpu_4,
    "put": put(lambda cpu_4: cpu_4[:2]),
    "put of rows": put(lambda cpu_4: cpu_4[:2].clone()[None]),
    "masked fill": lambda gpu_4, cpu_4: gpu_4.masked_fill(cpu_4 > 0, 1.0),
    "gpu index of cpu": lambda gpu_4, cpu_4: cpu_4[gpu_4.long()],
    "index_select": lambda gpu_4, cpu_4: gpu_4.index_select(0, cpu_4.long()),
    "gather": lambda gpu_4, cpu_4: gpu_4.gather(0, cpu_4.long()),
    "index_add": lambda gpu_4, cpu_4: gpu_4.index_add(0, cpu_4.long(), gpu_4),
    "embedding": lambda gpu_4, cpu_4: nn.Embedding(4, 2)(gpu_4.long()),
    "linear": lambda gpu_4, cpu_4: nn.Linear(4, 2).to("cuda")(cpu_4),
    "interpolated with": lambda gpu_4, cpu_4: torch.lerp(gpu_4, cpu_4, 0.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mixes_are_refused(traffic: Traffic, name: str) -> None:
    gpu_4 = torch.arange(4.0, device="cuda")
    cpu_4 = torch.ones(4)
    with pytest.raises(RuntimeError, match="same device"):
        REFUSED[name](gpu_4, cpu_4)


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray, np.array])
def test_there_is_no_way_to_numpy(traffic: Traffic, read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        read(torch.ones(2, device="cuda"))
    np.testing.assert_array_equal(torch.ones(2, device="cuda").cpu().numpy(), np.ones(2))


def test_what_cuda_allows(traffic: Traffic) -> None:
    gpu_4 = torch.arange(4.0, device="cuda")
    cpu_4 = torch.ones(4)
    scalar = torch.tensor(2.0)
    assert (gpu_4 * scalar + 1).tolist() == [1, 3, 5, 7]
    assert torch.where(gpu_4 > 1, gpu_4, scalar).tolist() == [2, 2, 2, 3]
    assert gpu_4[torch.tensor([3, 0])].tolist() == [3, 0]
    assert gpu_4[[3, 0]].tolist() == [3, 0]
    assert gpu_4[np.array([1])].tolist() == [1]
    gpu_4[[1, 2]] = scalar
    assert gpu_4.tolist() == [0, 2, 2, 3]
    gpu_4[0] = cpu_4[0]
    gpu_4[2:] = cpu_4[2:]
    assert gpu_4.tolist() == [1, 2, 1, 1]
    cpu_4.copy_(gpu_4)
    assert cpu_4.tolist() == [1, 2, 1, 1]
    assert type(cpu_4) is Tensor


def test_tensors_say_where_they_are(traffic: Traffic) -> None:
    made = torch.zeros(2, device="cuda")
    assert made.device == torch.device("cuda:0")
    assert made.is_cuda
    assert made.new_tensor([1.5]).tolist() == [1.5]
    assert made.new_zeros(2).is_cuda
    assert torch.ones_like(made).is_cuda
    assert torch.ones(1).cuda().is_cuda
    assert torch.as_tensor(np.arange(2), device=made.device).tolist() == [0, 1]
    assert not made.cpu().is_cuda
    assert not torch.zeros(2).is_cuda


def test_the_default_device_is_put_back() -> None:
    with fake_cuda(default=True):
        assert torch.tensor([1, 2]).is_cuda
        assert torch.arange(3).is_cuda
        assert not torch.from_numpy(np.ones(2)).is_cuda
        assert not torch.zeros(2, device="cpu").is_cuda
    assert torch.get_default_device() == torch.device("cpu")
    assert type(torch.tensor([1, 2])) is Tensor


def test_traffic_is_counted(traffic: Traffic) -> None:
    gpu_4 = torch.tensor([1.0, 2.0, 3.0, 4.0], device="cuda")
    assert (traffic.up, traffic.down, traffic.waits) == (1, 0, 0)
    assert gpu_4.sum().item() == 10
    assert gpu_4.any()
    assert gpu_4.tolist() == [1, 2, 3, 4]
    gpu_4.cpu()
    assert (traffic.up, traffic.down, traffic.waits) == (1, 4, 0)
    assert len(gpu_4[gpu_4 > 2]) == 2
    assert len(gpu_4.nonzero()) == 4
    assert (traffic.up, traffic.down, traffic.waits) == (1, 4, 2)
    gpu_4[torch.tensor([1])]
    assert traffic.up == 2


def test_a_module_learns_as_on_the_cpu() -> None:
    def learned(device: str) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 5, bias=False))
        # Tied, as the head of a language model.
        model[2].weight = model[0].weight
        model.to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.arange(5, device=device)).square().mean().backward()
            optimizer.step()
        assert model[2].weight is model[0].weight
        assert isinstance(model[0].weight, FakeCuda) == (device == "cuda")
        return [parameter.detach().cpu() for parameter in model.parameters()]

    expected = learned("cpu")
    with fake_cuda():
        found = learned("cuda")
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_autocast_casts_by_the_lists_of_a_gpu(traffic: Traffic) -> None:
    layer = nn.Linear(4, 3).to("cuda")
    rows_24 = torch.ones(2, 4, device="cuda")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), torch.autocast("cuda", torch.bfloat16):
            assert layer(rows_24).dtype == torch.bfloat16
            assert layer(rows_24).softmax(-1).dtype == torch.float32
            assert (rows_24 + 1).dtype == torch.float32
    assert layer(rows_24).dtype == torch.float32
    with pytest.raises(RuntimeError, match="dtype"):
        layer(rows_24.bfloat16())


def test_parts_of_an_operation_are_checked_in_inference_mode(traffic: Traffic) -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="same device"):
        nn.functional.mse_loss(torch.ones(3, device="cuda"), torch.ones(3))
