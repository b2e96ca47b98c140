"""A small checkout with the modules and signatures of the official XMem repository.

Its network follows colours: a pixel belongs to the object where its colour is nearer to the
object's mean colour than to the rest's, in the frames remembered so far. It checks how it is called
as strictly as the official one depends on it, and loads its one number as weights.
"""

from __future__ import annotations

from pathlib import Path

import torch

RESNET = """
def resnet18(pretrained=True, extra_dim=0):
    assert not pretrained, "would download"

def resnet50(pretrained=True, extra_dim=0):
    assert not pretrained, "would download"
"""

NETWORK = """
import torch
from model import resnet
from util.tools import distance


class XMem(torch.nn.Module):
    def __init__(self, config, model_path=None, map_location=None):
        super().__init__()
        print("Single object mode: False")
        resnet.resnet50(pretrained=True)
        resnet.resnet18(pretrained=True, extra_dim=2)
        weights = torch.load(model_path, map_location=map_location)
        self.sharpness = torch.nn.Parameter(weights["sharpness"])
        config["hidden_dim"] = 1

    def forward(self, image, colours):
        distances = torch.stack([distance(image, colour) for colour in colours])
        return torch.softmax(-self.sharpness * distances, 0)
"""

TOOLS = """
def distance(image, colour):
    return (image - colour[:, None, None]).abs().sum(0)
"""

CORE = """
import torch


class InferenceCore:
    made = []

    def __init__(self, network, config):
        assert config["hidden_dim"] == 1
        assert config["mem_every"] == 5
        self.config = config
        self.network = network
        self.colours = None
        self.steps = 0
        self.ended = False
        InferenceCore.made.append(self)

    def set_all_labels(self, all_labels):
        assert all_labels == [1]

    def step(self, image, mask=None, valid_labels=None, end=False):
        assert not self.ended
        assert image.shape[0] == 3
        assert (self.steps == 0) == (mask is not None)
        self.steps += 1
        self.ended = end
        if mask is not None:
            assert valid_labels == [1]
            assert mask.shape == (1, *image.shape[1:])
            self.colours = [image[:, mask[0] == i].mean(1) for i in (0, 1)]
            return torch.cat([1 - mask, mask])
        return self.network(image, self.colours)
"""


def write(folder: Path) -> tuple[Path, Path]:
    """(checkout, weights)."""
    files = {
        "model/__init__.py": "",
        "model/resnet.py": RESNET,
        "model/network.py": NETWORK,
        "inference/__init__.py": "",
        "inference/inference_core.py": CORE,
        "util/__init__.py": "",
        "util/tools.py": TOOLS,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    torch.save({"sharpness": torch.tensor(4.0)}, folder / "small.pth")
    return folder, folder / "small.pth"
