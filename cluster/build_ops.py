"""Compiles DeepSpeed's CPU communication operator ahead of the first run (about half a minute, once)."""

from __future__ import annotations

import os

from cluster.environment import cpu_env


def main() -> None:
    os.environ.update(cpu_env())
    os.makedirs(os.environ["TORCH_EXTENSIONS_DIR"], exist_ok=True)
    import torch

    if torch.cuda.is_available():
        print("a GPU is there: DeepSpeed compiles what it needs when it starts")
        return
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
    print(f"ready in {os.environ['TORCH_EXTENSIONS_DIR']}")


if __name__ == "__main__":
    main()
