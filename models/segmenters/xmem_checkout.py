"""XMem (arXiv 2207.07115) from a local, unchanged checkout of its official repository.

XMem is not a package: `load_xmem` imports the checkout's modules.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

# Settings of the official evaluation. With deep_update_every -1 deep updates follow the memory's.
SETTINGS: dict[str, Any] = {
    "mem_every": 5,
    "deep_update_every": -1,
    "enable_long_term": True,
    "max_mid_term_frames": 10,
    "min_mid_term_frames": 5,
    "max_long_term_elements": 10_000,
    "num_prototypes": 128,
    "top_k": 30,
}

# Top-level names of the checkout's modules.
TOP_NAMES = ("model", "inference", "util", "dataset")
REMEDY = (
    "segmenter.xmem_path takes a checkout of github.com/hkchengrex/XMem, "
    "segmenter.xmem_weights its XMem.pth"
)


class InferenceCore(Protocol):
    """The checkout's `InferenceCore`: one object being followed."""

    def set_all_labels(self, all_labels: list[int]) -> None: ...

    def step(
        self,
        image: torch.Tensor,
        mask: torch.Tensor | None = None,
        valid_labels: list[int] | None = None,
        end: bool = False,
    ) -> torch.Tensor:
        """Return probabilities (2, H, W) of background and object on an image (3, H, W).

        `mask` is the object's (1, H, W), on the first frame only.
        """
        ...


@dataclass(frozen=True)
class XMem:
    """The checkout's network.

    Attributes:
        network: with its weights.
        make_core: the checkout's `InferenceCore(network, config=...)`.
        config: `SETTINGS` and sizes of the network.
    """

    network: torch.nn.Module
    make_core: Callable[..., InferenceCore]
    config: dict[str, Any]

    def start(self, num_frames: int) -> InferenceCore:
        """Return a fresh memory for a track of `num_frames`.

        As in the official evaluation, the use of old elements is counted only if they can outgrow
        the memory.
        """
        config = self.config
        spare_frames = config["max_mid_term_frames"] - config["min_mid_term_frames"]
        elements = num_frames / spare_frames * config["num_prototypes"]
        overflows = elements >= config["max_long_term_elements"]
        count_usage = config["enable_long_term"] and overflows
        core = self.make_core(
            self.network, config=config | {"enable_long_term_count_usage": count_usage}
        )
        core.set_all_labels([1])
        return core


def load_xmem(checkout: Path, weights: Path) -> XMem:
    """Return the network of a checkout with its weights, on the CPU.

    Raises:
        ValueError: the checkout or the weights are absent, or the weights are of another network.
    """
    needed = {
        "xmem_path": (checkout, checkout / "inference" / "inference_core.py"),
        "xmem_weights": (weights, weights),
    }
    for setting, (given, file) in needed.items():
        if not file.is_file():
            raise ValueError(f"segmenter.{setting}={given}: no file {file}; {REMEDY}")

    network_module, core_module, resnet = import_checkout(checkout)
    config = dict(SETTINGS)
    with without_download(resnet), contextlib.redirect_stdout(io.StringIO()):
        try:
            # The constructor adds the network's sizes to `config`.
            network = network_module.XMem(config, str(weights), map_location="cpu")
        except (KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"segmenter.xmem_weights={weights}: not weights of XMem ({error}); {REMEDY}"
            ) from error
    return XMem(network, core_module.InferenceCore, config)


def import_checkout(checkout: Path) -> list[Any]:
    """Return the checkout's modules model.network, inference.inference_core and model.resnet.

    Their top names are common words, so they are visible to one another alone, and only during this
    call.
    """
    hidden = _pop_modules()
    sys.path.insert(0, str(checkout))
    importlib.invalidate_caches()
    try:
        names = ("model.network", "inference.inference_core", "model.resnet")
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ValueError(f"segmenter.xmem_path={checkout}: {error}; {REMEDY}") from error
    finally:
        sys.path.remove(str(checkout))
        _pop_modules()
        sys.modules.update(hidden)


def _pop_modules() -> dict[str, Any]:
    """Take the modules with a top name of the checkout's out of `sys.modules`; return them."""
    found = {}
    for name in list(sys.modules):
        if name.split(".")[0] in TOP_NAMES:
            found[name] = sys.modules.pop(name)
    return found


@contextlib.contextmanager
def without_download(resnet: Any) -> Iterator[None]:
    """Keep XMem's constructor from fetching ImageNet weights: its own replace them anyway."""
    originals = {name: getattr(resnet, name) for name in ("resnet18", "resnet50")}
    for name, make in originals.items():
        setattr(resnet, name, _untrained(make))
    try:
        yield
    finally:
        for name, make in originals.items():
            setattr(resnet, name, make)


def _untrained(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ResNet's constructor without its pretrained weights."""

    def make_untrained(pretrained: bool = True, extra_dim: int = 0) -> Any:
        return make(pretrained=False, extra_dim=extra_dim)

    return make_untrained
