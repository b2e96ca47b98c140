"""What the fork server of the engines imports (`models.engine.head_start`)."""

from __future__ import annotations

import atexit
import os

from core.collector import without_collector

# What the engine's process imports, beside the model.
with without_collector():
    import vllm.v1.engine.core
    import vllm.v1.worker.cpu_worker  # noqa: F401

# Python would take seconds to take all of it apart.
atexit.register(os._exit, 0)
