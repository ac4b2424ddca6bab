"""The worker's side of its relation to the distributor: what waits to be told, what was told, which fence holds.
Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from a2a_zmq.fences import FenceGuard
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.protocol.ports import PeerUp
from daemons.runtime.contract import Effect, Send, Undelivered
from daemons.worker import reports
from daemons.worker.config import WorkerConfig
from daemons.worker.outgoing import Entry, Key, Outgoing

# A full outbox empties as soon as the distributor acknowledges: soon enough, and it costs nothing to look.
RETRY_SEND_S: Final = 0.05


class Uplink:
    """Results and hand-backs on their way to the distributor.

    Attributes:
        connected: there is a session.
        guard: the fence and epoch that the distributor showed; one that was replaced is refused.
        told_limit: the credit that the distributor knows of.
    """

    def __init__(self, distributor_id: str, config: WorkerConfig) -> None:
        self.distributor_id = distributor_id
        self.connected = False
        self.guard = FenceGuard()
        self.told_limit = 0
        self._outgoing = Outgoing(
            config.message_bytes, config.keep_results, config.keep_results_bytes, config.keep_results_s
        )
        self._handback: list[Key] = []
        self._said_rest = False
        self._lost = False  # the distributor was taken for dead since the last session
        self._retry_at = math.inf

    @property
    def unsent(self) -> int:
        """Results and hand-backs that no outbox has taken."""
        return len(self._outgoing) + len(self._handback)

    # ------------------------------------------------------------ the session

    def up(self, event: PeerUp) -> int:
        """A session is there; returns how many results are sent again."""
        details = event.peer.details
        fence, epoch = details.get("fence"), details.get("epoch")
        self.guard.hears(event.peer.boot_id)
        if isinstance(fence, int) and isinstance(epoch, str):
            self.guard.admits(fence, epoch)
        self.connected = True
        self._retry_at = math.inf
        # A new process may never have seen what the old one took; it ignores what it knows.
        again = self._outgoing.again_all() if event.peer.restarted or self._lost else 0
        self._lost = False
        return again

    def admits(self, payload: dict[str, Any]) -> bool:
        """Whether a request comes from the present owner and not from a process that was replaced. (What is not of the
        right form is for the request's handler to refuse.)"""
        fence, epoch = payload.get("fence", self.guard.fence), payload.get("epoch", "")
        return not isinstance(fence, int) or not isinstance(epoch, str) or self.guard.admits(fence, epoch)

    def down(self) -> None:
        """The distributor is taken for dead. Runs go on: the next session adopts them by our inventory."""
        self.connected = False
        self._lost = True

    def undelivered(self, event: Undelivered, mono: float) -> None:
        """The outbox did not take a message: what it said is told later."""
        effect = event.effect
        if event.reason == "busy":
            self._retry_at = mono + RETRY_SEND_S
        if isinstance(effect, reports.SendResults):
            if event.reason != "malformed":
                self._outgoing.put_back(effect.entries)
            else:
                self._outgoing.put_back([Entry(key, reports.unsendable(*key)) for key, _ in effect.entries])
        elif effect.payload.get("action") == "task_handback":
            self._handback.extend((task_id, attempt) for task_id, attempt in effect.payload["tasks"])

    # ------------------------------------------------------------ what is to be told

    def result(self, key: Key, encoded: bytes) -> None:
        self._outgoing.add(key, encoded)

    def result_again(self, key: Key) -> bool:
        """Tell once more what became of this attempt; False if that is not known (any more)."""
        return self._outgoing.again([key]) == 1

    def hand_back(self, key: Key) -> None:
        """This attempt never began and will not."""
        self._handback.append(key)

    def beat(self, heartbeat: Callable[[], dict[str, Any]]) -> list[Effect]:
        """A heartbeat beside the regular ones."""
        if not self.connected:
            return []
        return [Send(self.distributor_id, MessageType.HEARTBEAT, heartbeat(), reliable=False)]

    def rest(self) -> list[Effect]:
        """Once, when everything is told and nothing runs: what else was assigned, and may still be on its way here,
        never began. Behind it comes only the good-bye, by which alone the distributor could not know that."""
        if self._said_rest or self.unsent or not self.connected:
            return []
        self._said_rest = True
        payload = {"action": "task_handback", "tasks": [], "rest": True}
        return [Send(self.distributor_id, MessageType.EVENT, payload)]

    def tells(self, credit: dict[str, int]) -> dict[str, int]:
        """The same, noted as told."""
        self.told_limit = credit["limit"]
        return credit

    def sends(
        self, mono: float, credit: Callable[[], dict[str, int]], held: int, heartbeat: Callable[[], dict[str, Any]]
    ) -> list[Effect]:
        """Everything that waits; or just the limit, if it grew while the distributor is out of credit.

        Args:
            mono: now.
            credit: to grant (asked for only when it may be told).
            held: tasks that the distributor left here and that have not ended.
            heartbeat: the payload that tells the limit alone.
        """
        if mono >= self._retry_at:
            self._retry_at = math.inf
        if not self.connected or self._retry_at != math.inf:
            return []
        effects: list[Effect] = []
        to = self.distributor_id
        if self._handback:
            pairs = [list(key) for key in self._handback]
            self._handback.clear()
            effects.append(Send(to, MessageType.EVENT, {"action": "task_handback", "tasks": pairs}))
        if len(self._outgoing):
            told = self.tells(credit())
            effects.extend(reports.results(to, batch, told) for batch in self._outgoing.take(mono))
        elif held >= self.told_limit and credit()["limit"] > self.told_limit:
            effects.append(Send(to, MessageType.HEARTBEAT, heartbeat(), reliable=False))
        return effects

    def prune(self, mono: float) -> None:
        """Forget sent results that nobody will ask for."""
        self._outgoing.prune(mono)

    def next_deadline(self) -> float:
        return self._retry_at if self.connected else math.inf
