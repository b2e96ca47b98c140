"""A head start for the engine's process on CPU: it imports vLLM while the actor does.

vLLM runs its engine in a process of its own and starts that last. Both processes import vLLM, one
after the other, for many seconds each. Here a fork server begins to import it at once, and the
engine is forked from it once the actor is ready.

On GPU vLLM starts the process itself: a library that touched the device before the fork would
break it.
"""

from __future__ import annotations

import functools
import os
from multiprocessing import context, forkserver

# Imported there and nowhere else: it ends its process in a way of its own.
PRELOAD = "models.engine.fork_server"


class EngineProcess(context.ForkServerProcess):
    """A forked process with the environment of the one that started it.

    The fork server has an older one.
    """

    def start(self) -> None:
        self.environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        # No more than that: a process's title goes where its first environment is.
        for name in os.environ.keys() - self.environment.keys():
            del os.environ[name]
        for name, value in self.environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        super().run()


class EngineContext(context.ForkServerContext):
    """Starts processes of engines."""

    Process = EngineProcess


@functools.cache
def begin() -> None:
    """Start the fork server, import vLLM meanwhile, and let it fork its engines from there."""
    EngineContext().set_forkserver_preload([PRELOAD])
    forkserver.ensure_running()

    import vllm.v1.engine.utils as engine_utils

    assert hasattr(engine_utils, "get_mp_context"), "another vLLM names it otherwise"
    engine_utils.get_mp_context = EngineContext
