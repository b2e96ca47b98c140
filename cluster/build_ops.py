"""Compile DeepSpeed's CPU communication operator before the first run (half a minute, once).

Run it with `python -m cluster.build_ops`.
"""

from __future__ import annotations

import os

from cluster.environment import cpu_env


def main() -> None:
    # DeepSpeed reads these when it is imported.
    os.environ.update(cpu_env())
    folder = os.environ["TORCH_EXTENSIONS_DIR"]
    os.makedirs(folder, exist_ok=True)

    import torch

    if torch.cuda.is_available():
        print("this machine has a GPU: DeepSpeed compiles what it needs when it starts")
        return
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
    print(f"ready in {folder}")


if __name__ == "__main__":
    main()
