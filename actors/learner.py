"""A learner actor: the Ray process of one `TrainerRank`.

It sets the environment variables of the process group and only then builds the trainer.
`actors.learner_pool` gives rows to all ranks.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from actors.drawing import DrawBatch, DrawnMasks
from actors.objective import StepReport
from cluster.beat import patient
from cluster.placement import Device
from cluster.weights import Wanted, WeightVersion
from configs.schema import Config
from core.batch import Tree
from core.collector import without_collector
from core.types import MediaSource

# The trainer imports DeepSpeed. The driver, which imports this file too, does not need it.
if TYPE_CHECKING:
    from actors.trainer import TrainerRank


@dataclass(frozen=True)
class RankPlace:
    """Position of one rank among the others.

    Attributes:
        rank: number of this rank among all.
        ranks: number of all ranks.
        local_rank: number of this rank among those of its node.
        local_ranks: number of ranks on its node.
        master: address and port of the first rank.
    """

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    master: tuple[str, int]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of DeepSpeed's process group."""
        host, port = self.master
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.ranks),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_ranks),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }


class LearnerActor:
    """The process of one rank. From `draw` on its methods are those of `TrainerRank`."""

    def __init__(self) -> None:
        self._trainer: TrainerRank | None = None

    @property
    def trainer(self) -> TrainerRank:
        """The rank itself, once it was started."""
        assert self._trainer is not None, "`start` comes first"
        return self._trainer

    def address(self) -> tuple[str, int]:
        """Return this node's address and a free port on it."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        if os.environ.get("GLOO_SOCKET_IFNAME") == "lo":
            return "127.0.0.1", port
        return ray.util.get_node_ip_address(), port

    def whereabouts(self) -> str:
        """Return the process and the machine of this rank, for messages."""
        return f"pid {os.getpid()} on node {ray.util.get_node_ip_address()}"

    @patient
    def start(self, cfg: Config, device: Device, place: RankPlace, total_updates: int) -> None:
        """Build the trainer. Raises the errors of `TrainerRank`."""
        os.environ.update(place.environment)
        # DeepSpeed's autotuner, which nobody uses here, would import it for seconds.
        sys.modules["mlflow"] = None  # type: ignore[assignment]
        with without_collector():
            from actors.trainer import TrainerRank

        # Code of one's own in this process may want it.
        del sys.modules["mlflow"]
        self._trainer = TrainerRank(cfg, device, place.rank, place.ranks, total_updates)

    def draw(
        self, rows: list[list[Tree]], sources: Mapping[int, MediaSource], requests: DrawBatch
    ) -> DrawnMasks:
        return self.trainer.draw(rows, sources, requests)

    def add(
        self,
        rows: list[list[Tree]],
        sources: Mapping[int, MediaSource],
        newest: int,
        imitate: bool,
        targets: DrawBatch | None = None,
    ) -> None:
        self.trainer.add(rows, sources, newest, imitate, targets)

    def finish(self, divisor: float) -> list[StepReport]:
        return self.trainer.finish(divisor)

    @patient
    def publish(
        self, version: int, wanted: Wanted = "nothing"
    ) -> tuple[WeightVersion | None, np.ndarray | None]:
        return self.trainer.publish(version, wanted)

    @patient
    def head(self) -> dict[str, np.ndarray]:
        return self.trainer.head()

    @patient
    def connect(self, master: dict[str, Any]) -> None:
        self.trainer.connect(master)

    @patient
    def send(self) -> None:
        self.trainer.send()

    @patient
    def next_message(self) -> dict[str, Any] | None:
        return self.trainer.next_message()

    @patient
    def save(self, folder: str, beside: bool = False) -> None:
        self.trainer.save(folder, beside)

    @patient
    def load(self, folder: str) -> None:
        self.trainer.load(folder)

    @patient
    def close(self) -> None:
        self.trainer.close()
