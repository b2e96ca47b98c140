"""SAM 2 on the prompted frame, XMem (arXiv 2207.07115) from there to both ends: the propagation of VideoSeg-R1 (Eq. 4).

XMem is no package: `load` imports a local checkout of the official repository, which stays as it is. An object has
a track of its own in each direction, each with a fresh memory; XMem remembers backward and forward as one past.
This file knows no SAM 2: the mask of the prompted frame comes from any other segmenter.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from core.types import MaskPrompt
from models.segmenters.base import AHEAD, Frames, Piece, Segmenter, check, flush_size
from models.segmenters.sam2_track import MEAN, STD

SHORT_SIDE = 480  # pixels; this and SETTINGS are the defaults of the official evaluation
LEAST_SIDE = 96  # of a smaller frame the memory has fewer positions (of 16 x 16 pixels) than XMem picks from it
SETTINGS: dict[str, Any] = {
    "mem_every": 5,
    "deep_update_every": -1,  # together with the memory
    "enable_long_term": True,
    "max_mid_term_frames": 10,
    "min_mid_term_frames": 5,
    "max_long_term_elements": 10_000,
    "num_prototypes": 128,
    "top_k": 30,
}
TOP_NAMES = ("model", "inference", "util", "dataset")  # of the checkout's modules
REMEDY = "segmenter.xmem_path takes a checkout of github.com/hkchengrex/XMem, segmenter.xmem_weights its XMem.pth"


class Core(Protocol):
    """One object being followed: the checkout's `InferenceCore`."""

    def set_all_labels(self, all_labels: list[int]) -> None: ...

    def step(
        self,
        image: torch.Tensor,
        mask: torch.Tensor | None = None,
        valid_labels: list[int] | None = None,
        end: bool = False,
    ) -> torch.Tensor:
        """Image (3, H, W) and on the first frame mask (1, H, W) to probabilities (2, H, W): background, object."""
        ...


@dataclass(frozen=True)
class XMem:
    """The checkout's network, and what makes a fresh memory for it."""

    network: torch.nn.Module
    core: Callable[..., Core]  # (network, config=...)
    config: dict[str, Any]

    def start(self, num_frames: int) -> Core:
        """A memory for a track of `num_frames`. Use of old elements is counted only if they can outgrow the store."""
        c = self.config
        spare = c["max_mid_term_frames"] - c["min_mid_term_frames"]
        elements = num_frames / spare * c["num_prototypes"]
        many = c["enable_long_term"] and elements >= c["max_long_term_elements"]
        core = self.core(self.network, config=c | {"enable_long_term_count_usage": many})
        core.set_all_labels([1])
        return core


class XMemSegmenter(Segmenter):
    """Masks of the prompted frames from `first`, all others from XMem; half precision on a GPU, as officially.

    A frame is resized to `short_side` (bilinear, antialiased; 0: its own; at least LEAST_SIDE), and probabilities back
    to the frame's size. An object whose mask on the prompted frame is empty is nowhere.
    """

    def __init__(
        self, first: Segmenter, xmem: XMem, device: str = "cpu", short_side: int = SHORT_SIDE
    ) -> None:
        self.first = first
        self.xmem = xmem
        self.device = torch.device(device)
        self.short_side = short_side
        xmem.network.to(self.device).eval()

    def image_masks(
        self, frames: Sequence[np.ndarray], prompts: Sequence[MaskPrompt]
    ) -> list[np.ndarray]:
        """As `Segmenter.image_masks`: those of `first`."""
        return self.first.image_masks(frames, prompts)

    @torch.inference_mode()
    def track(self, frames: Frames, prompts: Sequence[MaskPrompt]) -> Iterator[Piece]:
        """As `Segmenter.track`, one prompt after the other."""
        num_frames = frames.shape[0]
        check(prompts, num_frames)
        for index, prompt in enumerate(prompts):
            frame_HWC = frames[prompt.frame : prompt.frame + 1][0]
            mask_HW = self.image_masks([frame_HWC], [prompt])[0]
            yield Piece(((index, prompt.frame),), mask_HW[None])
            if mask_HW.any():
                for way in (range(prompt.frame, num_frames), range(prompt.frame, -1, -1)):
                    yield from self._follow(frames, index, way, mask_HW)

    def _follow(
        self, frames: Frames, index: int, way: range, mask_HW: np.ndarray
    ) -> Iterator[Piece]:
        """Masks of the frames behind the first of `way`, which has `mask_HW`."""
        if len(way) == 1:
            return
        core = self.xmem.start(len(way))
        size_HW = mask_HW.shape
        masks: list[np.ndarray] = []
        for t, frame_HWC in enumerate(_along(frames, way)):
            with torch.autocast(
                self.device.type, torch.float16, enabled=self.device.type == "cuda"
            ):
                image = self._image(frame_HWC)
                if t == 0:
                    core.step(image, self._mask(mask_HW), [1])
                    continue
                prob_2HW = core.step(image, end=t == len(way) - 1)
            masks.append(_argmax(prob_2HW, size_HW))
            if len(masks) == flush_size(*size_HW) or t == len(way) - 1:
                yield Piece(
                    tuple((index, f) for f in way[t + 1 - len(masks) : t + 1]), np.stack(masks)
                )
                masks = []

    def _image(self, frame_HWC: np.ndarray) -> torch.Tensor:
        image_3HW = (
            torch.from_numpy(np.ascontiguousarray(frame_HWC))
            .to(self.device)
            .permute(2, 0, 1)
            .float()
            / 255
        )
        image_3HW = (image_3HW - image_3HW.new_tensor(MEAN)[:, None, None]) / image_3HW.new_tensor(
            STD
        )[:, None, None]
        size = self._size(*frame_HWC.shape[:2])
        return F.interpolate(
            image_3HW[None], size, mode="bilinear", antialias=True, align_corners=False
        )[0]

    def _mask(self, mask_HW: np.ndarray) -> torch.Tensor:
        mask = torch.from_numpy(mask_HW)[None, None].to(self.device, torch.float32)
        return F.interpolate(mask, self._size(*mask_HW.shape), mode="nearest")[0]

    def _size(self, height: int, width: int) -> tuple[int, int]:
        short = min(height, width)
        side = max(self.short_side or short, LEAST_SIDE)
        return int(height / short * side), int(width / short * side)


def load(checkout: Path, weights: Path) -> XMem:
    """The network of a checkout with its weights, on the CPU.

    Raises:
        ValueError: no checkout or no weights there, or weights of another network.
    """
    for key, path, part in (
        ("xmem_path", checkout, checkout / "inference" / "inference_core.py"),
        ("xmem_weights", weights, weights),
    ):
        if not part.is_file():
            raise ValueError(f"segmenter.{key}={path}: no file {part}; {REMEDY}")
    network_module, core_module, resnet = _modules(checkout)
    config = dict(SETTINGS)
    with _without_download(resnet), contextlib.redirect_stdout(io.StringIO()):
        try:
            network = network_module.XMem(
                config, str(weights), map_location="cpu"
            )  # adds its sizes to `config`
        except (KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"segmenter.xmem_weights={weights}: not weights of XMem ({error}); {REMEDY}"
            ) from error
    return XMem(network, core_module.InferenceCore, config)


def _modules(checkout: Path) -> list[Any]:
    """The checkout's modules. Their top names are common words: they are visible to one another alone, and only now."""
    names = ("model.network", "inference.inference_core", "model.resnet")
    hidden = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in TOP_NAMES
    }
    sys.path.insert(0, str(checkout))
    importlib.invalidate_caches()
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ValueError(f"segmenter.xmem_path={checkout}: {error}; {REMEDY}") from error
    finally:
        sys.path.remove(str(checkout))
        for name in [name for name in sys.modules if name.split(".")[0] in TOP_NAMES]:
            del sys.modules[name]
        sys.modules.update(hidden)


@contextlib.contextmanager
def _without_download(resnet: Any) -> Iterator[None]:
    """XMem's constructor would fetch ImageNet weights, which its own weights then replace."""
    kept = {name: getattr(resnet, name) for name in ("resnet18", "resnet50")}

    def empty(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda pretrained=True, extra_dim=0: make(pretrained=False, extra_dim=extra_dim)

    for name, make in kept.items():
        setattr(resnet, name, empty(make))
    try:
        yield
    finally:
        for name, make in kept.items():
            setattr(resnet, name, make)


def _along(frames: Frames, way: range) -> Iterator[np.ndarray]:
    """Frames one by one, forward or backward, read a few at a time."""
    for start in range(0, len(way), AHEAD):
        part = way[start : start + AHEAD]
        read_nHWC = frames[min(part) : max(part) + 1]
        yield from read_nHWC if way.step > 0 else read_nHWC[::-1]


def _argmax(prob_2HW: torch.Tensor, size_HW: tuple[int, ...]) -> np.ndarray:
    """The object's pixels at the frame's size, bool (H, W)."""
    full = F.interpolate(prob_2HW[:, None].float(), size_HW, mode="bilinear", align_corners=False)[
        :, 0
    ]
    return (full[1] > full[0]).cpu().numpy()
