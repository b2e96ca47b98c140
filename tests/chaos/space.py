"""The namespace of a trial: a view of the machine's mounts that no other process has.

So a process belongs to the trial if it has the same view, whoever its parent was; a file in
/dev/shm is the trial's own; and a disk of its own may be filled to the last byte.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# In the environment of a process inside.
INSIDE = "RAYVOS_CHAOS_SPACE"
SHARED_MEMORY = Path("/dev/shm")


def unsharing() -> list[str]:
    """Return the command that starts another one in a namespace of its own."""
    command = ["unshare", "--mount"]
    if os.geteuid() != 0:
        command.append("--map-root-user")
    return command


def is_allowed() -> bool:
    """Return whether this user may make a namespace."""
    try:
        return subprocess.run([*unsharing(), "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def enter() -> None:
    """Start this program again in a namespace with a /dev/shm of its own, unless it is in one."""
    if os.environ.pop(INSIDE, ""):
        mount(SHARED_MEMORY)
        return
    if not is_allowed():
        sys.exit(f"`{' '.join(unsharing())}` is refused: be root, or allow user namespaces")
    os.environ[INSIDE] = "1"
    command = [*unsharing(), sys.executable, *sys.orig_argv[1:]]
    os.execvp(command[0], command)


def mount(folder: Path, options: str = "mode=1777") -> None:
    """Mount a file system in memory."""
    command = ["mount", "-t", "tmpfs", "-o", options, "rayvos_chaos", str(folder)]
    subprocess.run(command, check=True)
