"""A pretended GPU: tensors that say `cuda:0` over values on the CPU.

`fake_cuda` makes `device="cuda"` work on a machine without one. Unlike PyTorch's FakeTensorMode it
computes, so code with `.item()` and `.tolist()` runs to its end and gives the figures of the CPU.
What it adds is refusal: every operation below autograd checks the devices of its tensors by the
rules of a real GPU.

- Tensors of one operation are on one device.
- A CPU tensor without dimensions may join GPU tensors in an elementwise operation, and is allowed
  as the value of `fill_`, `masked_fill` and `index_put_`.
- The indices of `x[...]` may be on the CPU.
- `copy_`, and so `x[3] = y` and `x[2:5] = y`, crosses devices. `x[[1, 2]] = y` does not.
- There is no way to numpy but `.cpu()`.

It also counts what waits for the GPU, or travels to or from it (`Traffic`).

Not pretended: memory, streams, kernels for the GPU alone (flex attention), GPU generators, and
other orders of summation. Attention takes PyTorch's plain form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda:0")
CPU = torch.device("cpu")

aten = torch.ops.aten
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

# PyTorch's own code sees pretended tensors here: a build for CPUs cannot run a backward pass over
# tensors of a GPU. The number tells them from true meta tensors.
STAND_IN = torch.device("meta:1")

# Operations with a 0-dimensional CPU tensor as a value, besides the elementwise ones.
TAKES_CPU_SCALARS = {
    aten.fill.Tensor,
    aten.fill_.Tensor,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.where.self,
}
# Operations whose second argument is a list of indices.
INDEXES = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
# Operations whose size of result depends on values: the CPU waits for the GPU.
WAITS = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.equal.default,
    aten.repeat_interleave.Tensor,
}


# What a GPU's autocast runs in half and in single precision: of its lists, what models here use.
HALF = {
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    torch.nn.functional.linear,
    torch.nn.functional.scaled_dot_product_attention,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.mm,
    Tensor.bmm,
}
WHOLE = {
    torch.exp,
    torch.log,
    torch.pow,
    torch.softmax,
    torch.log_softmax,
    torch.norm,
    torch.cumsum,
    torch.sum,
    torch.layer_norm,
    torch.nn.functional.layer_norm,
    torch.nn.functional.group_norm,
    torch.nn.functional.softmax,
    torch.nn.functional.log_softmax,
    torch.nn.functional.normalize,
    torch.nn.functional.binary_cross_entropy_with_logits,
    torch.nn.functional.cross_entropy,
    Tensor.exp,
    Tensor.log,
    Tensor.pow,
    Tensor.__pow__,
    Tensor.softmax,
    Tensor.norm,
    Tensor.cumsum,
    Tensor.sum,
}


@dataclass
class Traffic:
    """What waited for the pretended GPU, or travelled.

    Attributes:
        down: copies to the CPU: `.cpu()`, `.item()`, `.tolist()`, `bool(x)`.
        up: copies to the GPU: `.to("cuda")`, `torch.tensor(...)`, indices on the CPU.
        waits: other operations for which the CPU waits, such as `nonzero` and `x[mask]`.
        operations: all operations on the GPU.
    """

    down: int = 0
    up: int = 0
    waits: int = 0
    operations: int = 0


# Counts of the innermost `fake_cuda`.
_traffic = Traffic()


class FakeCuda(Tensor):
    """A tensor on the pretended GPU; `values` holds its numbers."""

    values: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> FakeCuda:
        # A view of a weight stays an ordinary tensor, also in inference mode.
        with torch.inference_mode(False):
            fake: FakeCuda = Tensor._make_wrapper_subclass(
                cls,
                values.shape,
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                device=STAND_IN,
            )
        fake.values = values
        return fake

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: FakeCuda) -> None:
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.values = other.values

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        if force:
            array: np.ndarray = self.detach().cpu().numpy()
            return array
        raise TypeError(
            f"can't convert {GPU} device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self.numpy()

    def __repr__(self, *args: Any, **kwargs: Any) -> str:
        return f"FakeCuda({self.values!r})"


class _Computing(TorchDispatchMode):
    """Sees every operation below autograd, also those that make tensors from none."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else the first operation imports PyTorch's compiler: five seconds.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func) and _names_gpu(args, kwargs):
            # Without gradients some operations arrive whole. Their parts are checked one by one.
            with self:
                return func._op_dk(COMPOSITE, *args, **kwargs)
        return _run(func, args, kwargs)


class _Naming(TorchFunctionMode):
    """Gives PyTorch the stand-in where a program says "cuda"."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cuda:
            return args[0].to(STAND_IN)
        if func is Tensor.backward:
            # Backward passes run Python: autograd functions, checkpoints.
            gradient = args[1] if len(args) > 1 else kwargs.pop("gradient", None)
            with self:
                return torch.autograd.backward(args[0], gradient, **kwargs)
        if func is Tensor.new_tensor:
            return _new_tensor(*args, **kwargs)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], FakeCuda):
            return func(args[0], _with_tensors(args[1]), *args[2:])

        # A mode of the default device comes too late: it knows the name "cuda" alone.
        if func in _device_constructors() and kwargs.get("device") is None:
            kwargs["device"] = _default_device()
            if func is torch.as_tensor and isinstance(args[0], Tensor):
                kwargs["device"] = args[0].device
        if func in (torch.tensor, torch.as_tensor):
            return _from_data(func, args, kwargs)
        if func is torch.device:
            return func(*args, **kwargs)
        args, kwargs = _Autocast.cast(func, (args, kwargs))
        named_args = tuple(_stand_in(argument) for argument in args)
        named = {name: _stand_in(argument) for name, argument in kwargs.items()}
        return func(*named_args, **named)


class _Autocast:
    """Autocast of the pretended GPU: `HALF` and `WHOLE` are its lists."""

    # Types of the contexts that are entered, None for one that casts nothing.
    entered: ClassVar[list[torch.dtype | None]] = []

    def __init__(
        self, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True
    ) -> None:
        self.dtype = dtype or torch.float16
        self.enabled = enabled and device_type == "cuda"

    def __enter__(self) -> None:
        self.entered.append(self.dtype if self.enabled else None)

    def __exit__(self, *error: object) -> None:
        self.entered.pop()

    @classmethod
    def cast(cls, func: Any, arguments: Any) -> Any:
        """Return the arguments of an operation as the innermost context casts them."""
        half = cls.entered[-1] if cls.entered else None
        if half is None or func not in HALF | WHOLE:
            return arguments
        wanted = half if func in HALF else torch.float32

        def cast(leaf: Any) -> Any:
            casts = isinstance(leaf, FakeCuda) and leaf.is_floating_point()
            return leaf.to(wanted) if casts else leaf

        return tree_map(cast, arguments)


def _default_device() -> torch.device:
    # `torch.get_default_device` would make a tensor on it.
    return torch.utils._device.CURRENT_DEVICE or CPU


def _stand_in(argument: Any) -> Any:
    if isinstance(argument, str) and argument in ("cuda", "cuda:0"):
        return STAND_IN
    if isinstance(argument, torch.device) and argument.type == "cuda":
        return STAND_IN
    return argument


def _from_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Make a tensor from data: on the CPU, then copied, as on a GPU."""
    device = torch.device(kwargs.pop("device"))
    if not isinstance(args[0], Tensor):
        # A list of numbers on the GPU is fetched number by number.
        args = (tree_map(_fetched, args[0]), *args[1:])
    if device.type != "cuda":
        made: Tensor = func(*args, **kwargs, device=device)
        return made
    wants_grad = kwargs.pop("requires_grad", False)
    there = func is torch.as_tensor and isinstance(args[0], FakeCuda)
    made = func(*args, **kwargs, device=STAND_IN if there else CPU)
    return made.to(STAND_IN).requires_grad_(wants_grad)


def _with_tensors(index: Any) -> Any:
    """Make lists in an index tensors on the GPU, as PyTorch does."""
    if isinstance(index, tuple):
        return tuple(_with_tensors(part) for part in index)
    if isinstance(index, list | np.ndarray):
        return torch.as_tensor(index, device=CPU).to(STAND_IN)
    return index


def _new_tensor(like: Tensor, data: Any, **kwargs: Any) -> Tensor:
    chosen = {"dtype": like.dtype, "device": like.device} | kwargs
    return _from_data(torch.tensor, (data,), chosen)


@contextmanager
def fake_cuda(default: bool = False) -> Iterator[Traffic]:
    """Pretend a GPU, and yield the counts of its traffic.

    Args:
        default: make new tensors on it, as `torch.set_default_device("cuda")`. The default device
            is put back in any case.
    """
    global _traffic
    outer = _traffic
    _traffic = Traffic()
    before = _default_device()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    # A module keeps its parameters, and so its ties, when it moves.
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with mock.patch.object(torch, "autocast", _Autocast), _Naming(), _Computing():
            if default:
                torch.set_default_device("cuda")
            yield _traffic
    finally:
        torch.set_default_device(None if before == CPU else before)
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        _traffic = outer


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and put its results on the device of a real GPU's."""
    wanted = kwargs.get("device")
    on_gpu = _has_gpu(args, kwargs)
    if not on_gpu and (wanted is None or not _is_gpu(wanted)):
        return func(*args, **kwargs)
    _traffic.operations += 1
    empty = [tensor for tensor in _tensors(args, kwargs) if tensor.device.type == "meta"]
    assert not empty, f"{func}: a tensor lost its values: {args}"

    if func is aten._fused_sdp_choice.default:
        return torch.nn.attention.SDPBackend.MATH.value
    if on_gpu:
        _check(func, args, kwargs)
    if func in WAITS:
        _traffic.waits += 1
    if func is aten._local_scalar_dense.default:
        _traffic.down += 1

    to_gpu = on_gpu
    if wanted is not None:
        to_gpu = _is_gpu(wanted)
        kwargs = {**kwargs, "device": CPU}
        if on_gpu != to_gpu:
            _count_copy(to_gpu)
        elif func is aten.lift_fresh.default:
            return args[0]
    result = func(*tree_map(_values, args), **tree_map(_values, kwargs))
    if not to_gpu:
        return result
    wrapped = tree_map(_on_gpu, result)
    if wanted is not None:
        return wrapped
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a mix of devices that a real GPU refuses."""
    if func in (aten.copy_.default, aten._to_copy.default, aten.copy.default):
        _count_crossing(args)
        return
    if func in INDEXES:
        _check_indices(func, args)
        return

    tensors = _tensors(args, kwargs)
    strangers = [tensor for tensor in tensors if not isinstance(tensor, FakeCuda)]
    if not strangers:
        return
    takes_scalars = torch.Tag.pointwise in func.tags or func in TAKES_CPU_SCALARS
    are_scalars = all(tensor.dim() == 0 for tensor in strangers)
    written = _written(func, args, kwargs)
    writes_cpu = any(not isinstance(tensor, FakeCuda) for tensor in written)
    if not takes_scalars or not are_scalars or writes_cpu:
        _refuse(func, tensors)


def _check_indices(func: Any, args: Sequence[Any]) -> None:
    """Check `x[indices]` and `x[indices] = values`."""
    tensors = _tensors(args, {})
    if not isinstance(args[0], FakeCuda):
        _refuse(func, tensors)
    for index in args[1]:
        if index is None:
            continue
        if not isinstance(index, FakeCuda):
            _traffic.up += 1
        if index.dtype in (torch.bool, torch.uint8):
            _traffic.waits += 1
    if len(args) > 2 and not isinstance(args[2], FakeCuda):
        if args[2].dim():
            _refuse(func, tensors)
        _traffic.up += 1


def _refuse(func: Any, tensors: Sequence[Tensor]) -> NoReturn:
    places = [f"{tensor.device} {tuple(tensor.shape)}" for tensor in tensors]
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices: "
        f"{func} of {', '.join(places)}"
    )


def _count_crossing(args: Sequence[Any]) -> None:
    """Count a `copy_` between devices."""
    if len(args) < 2 or not isinstance(args[1], Tensor):
        return
    to_gpu = isinstance(args[0], FakeCuda)
    from_gpu = isinstance(args[1], FakeCuda)
    if to_gpu != from_gpu:
        _count_copy(to_gpu)


def _count_copy(to_gpu: bool) -> None:
    if to_gpu:
        _traffic.up += 1
    else:
        _traffic.down += 1


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation writes to."""
    written: list[Any] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        if number < len(args):
            written += tree_leaves(args[number])
        else:
            written += tree_leaves(kwargs.get(argument.name))
    return [each for each in written if isinstance(each, Tensor)]


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    return [leaf for leaf in tree_leaves((list(args), kwargs)) if isinstance(leaf, Tensor)]


def _has_gpu(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    return any(isinstance(tensor, FakeCuda) for tensor in _tensors(args, kwargs))


def _names_gpu(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    leaves = tree_leaves((list(args), kwargs))
    return any(isinstance(leaf, FakeCuda) or leaf == STAND_IN for leaf in leaves)


def _is_composite(func: Any) -> bool:
    # Python's own kernels under this key would not see the stand-in.
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return COMPOSITE not in func.py_kernels and has_kernel(func.name(), COMPOSITE)


def _is_gpu(device: Any) -> bool:
    return torch.device(device) in (STAND_IN, GPU)


def _fetched(leaf: Any) -> Any:
    return leaf.tolist() if isinstance(leaf, FakeCuda) else leaf


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, FakeCuda) else leaf


def _on_gpu(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and not isinstance(leaf, FakeCuda):
        return FakeCuda(leaf)
    return leaf
