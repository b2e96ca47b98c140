"""Start-up hook for a CPU-only torch beside CUDA builds of torchvision and torchaudio.

`python -m cluster.torch_cpu_hook` installs it into this environment if, and only if, `import torchvision` fails.
Installed, it is a copy of this file named in a `.pth`, so that it runs at the start of every interpreter: vLLM
inspects models in a subprocess that imports transformers, and through it torchvision, before any code of ours.
The CUDA build of torchvision declares its operators in a library that needs libcudart; without it, its Python code
trips over the missing operator `nms`. The hook declares the two operators; nobody here calls them. Beside a CUDA
torch it does nothing. This file imports nothing of rayvos and no torch at start-up.
"""

from __future__ import annotations

import importlib.abc
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import ModuleSpec
from typing import Any

NAME = "_rayvos_torch_cpu_hook"
_library: Any = None  # keeps torch's operator declarations alive


def torch_is_cpu_only() -> bool:
    lib = os.path.join(sysconfig.get_paths()["platlib"], "torch", "lib")
    return os.path.exists(os.path.join(lib, "libtorch_cpu.so")) and not os.path.exists(
        os.path.join(lib, "libtorch_cuda.so")
    )


class _DeclareOperators(importlib.abc.MetaPathFinder):
    """Declares torchvision's operators just before torchvision's first use of them."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        global _library
        if fullname == "torchvision._meta_registrations" and _library is None:
            import torch
            import torchvision.extension as extension  # already being imported: this is its submodule

            if not extension._has_ops():
                _library = torch.library.Library("torchvision", "FRAGMENT")
                for operator in ("nms", "qnms"):
                    _library.define(
                        f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    )
        return None


def activate() -> None:
    """Called at interpreter start by the installed copy."""
    if torch_is_cpu_only():
        sys.meta_path.insert(0, _DeclareOperators())
        for name in (
            "torchaudio",
            "torchcodec",
        ):  # their libraries need CUDA: absent is better than crashing
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def install() -> None:
    check = subprocess.run(
        [sys.executable, "-c", "import torchvision"], capture_output=True, text=True
    )
    if check.returncode == 0:
        print("torchvision imports: no start-up hook needed")
        return
    if not torch_is_cpu_only():
        raise ValueError(
            f"torchvision does not import, and torch is not CPU-only: reinstall both.\n{check.stderr}"
        )
    site = sysconfig.get_paths()["purelib"]
    shutil.copy(os.path.abspath(__file__), os.path.join(site, NAME + ".py"))
    with open(os.path.join(site, NAME + ".pth"), "w", encoding="utf-8") as pth:
        pth.write(f"import {NAME}; {NAME}.activate()\n")
    subprocess.run([sys.executable, "-c", "import torchvision"], check=True)
    print("torchvision is a CUDA build beside a CPU torch: start-up hook installed")


if __name__ == "__main__":
    install()
