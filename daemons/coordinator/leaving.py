"""How a coordinator leaves: asked to drain, it makes durable what it has accepted, and goes.

Distributors and workers go on without us, so nothing else is waited for.
"""

from __future__ import annotations

import math

from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import Message
from daemons.coordinator.clients import Client
from daemons.coordinator.commands import Commands
from daemons.coordinator.desk import Desk
from daemons.runtime.contract import DrainRequested, Exit


class Leaving:
    """See the module's text."""

    def __init__(self, desk: Desk, commands: Commands) -> None:
        self._desk = desk
        self._commands = commands
        self._exited = False

    def requested(self, event: DrainRequested, now: Now) -> None:
        desk = self._desk
        if desk.draining is None:
            desk.draining = event
            desk.drain_until = now.mono + event.deadline_s
            desk.log("info", "draining", reason=event.reason, live=len(desk.ledger.live))

    def drain_agent(self, client: Client, message: Message, now: Now) -> None:
        """An operator wants an agent drained: us, or one that the command is passed on to."""
        desk = self._desk
        if message.payload.get("agent_id") != desk.agent_id or not client.operator:
            self._commands.drain(client, message, now)
            return
        self.requested(DrainRequested(f"asked by {client.agent_id}", desk.config.question_timeout_s), now)
        answer = {"draining": True, "message": f"{desk.agent_id} drains; distributors and workers go on without it"}
        desk.staging.after.append(desk.reply(message, answer))

    def settle(self, now: Now) -> None:
        """Leave if asked to and done, or when the time for it is over."""
        desk = self._desk
        if desk.draining is None or self._exited:
            return
        if self._flushed() or now.mono >= desk.drain_until:
            self._exited = True
            desk.out.append(Exit(0, desk.draining.reason))

    def next_deadline(self) -> float:
        """Monotonic time of the next :meth:`settle` that may end us (inf: none)."""
        desk = self._desk
        if desk.draining is None or self._exited:
            return math.inf
        return 0.0 if self._flushed() else desk.drain_until

    def _flushed(self) -> bool:
        desk = self._desk
        return not desk.leading or (desk.staging.empty() and not desk.ledger.fresh and not desk.checks)
