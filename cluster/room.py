"""Room for more engines on the cluster as it is now, and the request for nodes to its autoscaler.

Nodes come and go while a run goes on. Whoever starts engines looks here first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ray._private.state import available_resources_per_node
from ray.autoscaler.sdk import request_resources

Resources = Mapping[str, float]


def slots(free: Iterable[Resources], need: Resources) -> int:
    """Return how many times `need` fits into the nodes; a need cannot span nodes.

    Args:
        free: what is free on each node.
        need: what one engine takes, such as {"GPU": 1, "CPU": 1}; not empty.
    """
    total = 0
    for node in free:
        times = [node.get(name, 0.0) / amount for name, amount in need.items()]
        # Ray counts in ten-thousandths, so .9999999 of an engine is one.
        total += math.floor(min(times) + 1e-6)
    return total


def room(need: Resources) -> int:
    """Return how many engines find room now on the joined cluster."""
    return slots(available_resources_per_node().values(), need)


def ask_autoscaler(bundles: Sequence[Resources]) -> None:
    """Ask Ray's autoscaler for a cluster with room for these bundles, those in use included.

    The cluster keeps one such request, the last one. Without an autoscaler nothing happens.
    """
    request_resources(bundles=[dict(bundle) for bundle in bundles])


def withdraw() -> None:
    """Withdraw the request, so that idle nodes may go."""
    request_resources(bundles=[])
