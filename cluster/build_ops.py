"""Compile DeepSpeed's CPU communication operator before the first run (half a minute, once).

Run it with `python -m cluster.build_ops`.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cluster.environment import cpu_env, torch_extensions_dir


def load_operator() -> None:
    """Load the operator into this process; compile it if that was not done.

    Processes come one by one. Torch's own lock is a file that outlives a killed process, and others
    would wait for it for ever; whoever holds ours may remove it.
    """
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    folder = Path(torch_extensions_dir())
    folder.mkdir(parents=True, exist_ok=True)
    # The kernel lets go of it when this process dies.
    with (folder / "rayvos.lock").open("w") as own:
        fcntl.flock(own, fcntl.LOCK_EX)
        for lock in folder.glob("*/lock"):
            lock.unlink()
        ShareMemCommBuilder().load(verbose=False)


def main() -> None:
    # DeepSpeed reads these when it is imported.
    os.environ.update(cpu_env())

    import torch

    if torch.cuda.is_available():
        print("this machine has a GPU: DeepSpeed compiles what it needs when it starts")
        return
    load_operator()
    print(f"ready in {torch_extensions_dir()}")


if __name__ == "__main__":
    main()
