"""Start-up hook for a CPU-only torch beside CUDA builds of torchvision and torchaudio.

    python -m cluster.torch_cpu_hook

installs it into this environment if, and only if, `import torchvision` fails.

Installed, it is a copy of this file named in a `.pth`, so it runs at the start of every
interpreter. Nothing later would do: vLLM inspects models in a subprocess. It imports transformers,
and through it torchvision, before any code of this project.

The CUDA build of torchvision declares its operators in a library with libcudart. Without this
library its Python code trips over the missing operator `nms`. The hook declares the two
operators; this project never calls them. Beside a CUDA torch the hook does nothing. At start-up
this file imports neither torch nor another file of this project.
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
OPERATORS = ("nms", "qnms")
# transformers can do without them. The libraries of the first two need CUDA and do not load. The
# last one came with MLflow and is used by nothing here, but transformers would import it in every
# process, which is a fifth of the time of its own import.
ABSENT = ("torchaudio", "torchcodec", "sklearn")

# Keeps the declarations of the operators alive.
_library: Any = None


def torch_is_cpu_only() -> bool:
    """Return True for a torch without CUDA, by its installed libraries: nothing is imported."""
    lib = os.path.join(sysconfig.get_paths()["platlib"], "torch", "lib")
    has_cpu = os.path.exists(os.path.join(lib, "libtorch_cpu.so"))
    has_cuda = os.path.exists(os.path.join(lib, "libtorch_cuda.so"))
    return has_cpu and not has_cuda


class _DeclareOperators(importlib.abc.MetaPathFinder):
    """Finder of modules: declares torchvision's operators just before their first use."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        global _library
        if fullname != "torchvision._meta_registrations" or _library is not None:
            return None

        import torch

        # Importing this submodule is safe: its package is being imported already.
        import torchvision.extension as extension

        if not extension._has_ops():
            _library = torch.library.Library("torchvision", "FRAGMENT")
            for name in OPERATORS:
                _library.define(
                    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
        return None


def activate() -> None:
    """Run at interpreter start, from the installed copy."""
    if not torch_is_cpu_only():
        return
    sys.meta_path.insert(0, _DeclareOperators())
    for name in ABSENT:
        # None makes the import fail as if the package were not installed.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def install() -> None:
    """Install the hook if torchvision does not import without it.

    Raises:
        ValueError: torchvision does not import beside a CUDA torch.
    """
    site = sysconfig.get_paths()["purelib"]
    installed = os.path.join(site, NAME + ".py")
    # With the hook of an earlier release the import works, and says nothing about the need for one.
    if not os.path.exists(installed):
        check = subprocess.run(
            [sys.executable, "-c", "import torchvision"], capture_output=True, text=True
        )
        if check.returncode == 0:
            print("torchvision imports: no start-up hook needed")
            return
        if not torch_is_cpu_only():
            raise ValueError(
                "torchvision does not import, and torch is not CPU-only: reinstall both.\n"
                f"{check.stderr}"
            )

    shutil.copy(os.path.abspath(__file__), installed)
    with open(os.path.join(site, NAME + ".pth"), "w", encoding="utf-8") as pth:
        pth.write(f"import {NAME}; {NAME}.activate()\n")
    subprocess.run([sys.executable, "-c", "import torchvision"], check=True)
    print("torchvision is a CUDA build beside a CPU torch: start-up hook installed")


if __name__ == "__main__":
    install()
