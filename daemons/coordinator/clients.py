"""Sessions with clients and operators: who waits for what, and results on their way to them."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.ids import identity_of
from a2a_zmq.protocol.message import MessageType, Role
from daemons.runtime.contract import Effect, Send

if TYPE_CHECKING:
    from daemons.coordinator.config import CoordinatorConfig
    from daemons.coordinator.records import Entry

# Messages of a backlog that are tried again at a time.
BACKLOG_CHUNK = 16


class Client:
    """One connected client process.

    Attributes:
        results: encoded result records gathered since the last flush.
        backlog, backlog_bytes: messages that its outbox had no room for, oldest first.
        watched: ids that it subscribed to beside their submitter.
        dropped: results that are gone from here because it does not take them.
    """

    __slots__ = (
        "agent_id", "backlog", "backlog_bytes", "dropped", "identity", "results", "retry_at", "role", "watched",
    )  # fmt: skip

    def __init__(self, agent_id: str, role: Role) -> None:
        self.agent_id = agent_id
        self.identity = identity_of(agent_id)
        self.role = role
        self.results: list[bytes] = []
        self.backlog: deque[tuple[Send, int]] = deque()
        self.backlog_bytes = 0
        self.retry_at = 0.0
        self.watched: set[str] = set()
        self.dropped = 0

    @property
    def operator(self) -> bool:
        return self.role is Role.OPERATOR

    def may_see(self, owner: str) -> bool:
        """Clients see their own tasks, operators all."""
        return owner == self.identity or self.role is Role.OPERATOR


def results_message(client: str, parts: list[bytes]) -> Send:
    """Result records that are encoded already, as one EVENT."""
    payload = {"action": "task_results", "results": orjson.Fragment(b"[" + b",".join(parts) + b"]")}
    return Send(client, MessageType.EVENT, payload)


def split(parts: list[bytes], limit: int) -> list[list[bytes]]:
    """Cut into runs of at most ``limit`` bytes (a single larger part stays alone)."""
    runs: list[list[bytes]] = []
    size = limit
    for part in parts:
        size += len(part) + 1
        if size > limit:
            runs.append([])
            size = len(part)
        runs[-1].append(part)
    return runs


class Clients:
    """All connected clients, and the subscriptions to tasks."""

    def __init__(self, config: CoordinatorConfig) -> None:
        self._config = config
        self.connected: dict[str, Client] = {}
        self._watchers: dict[str, set[str]] = {}
        self._dirty: dict[str, Client] = {}
        self._backlogged: dict[str, Client] = {}
        self.dropped = 0

    def came(self, agent_id: str, role: Role) -> Client:
        client = self.connected.get(agent_id)
        if client is None or client.role is not role:
            client = self.connected[agent_id] = Client(agent_id, role)
        return client

    def went(self, agent_id: str) -> None:
        """Its results stay in the store; it will ask for them when it is back."""
        client = self.connected.pop(agent_id, None)
        self._dirty.pop(agent_id, None)
        self._backlogged.pop(agent_id, None)
        for task_id in client.watched if client is not None else ():
            watchers = self._watchers.get(task_id)
            if watchers is not None:
                watchers.discard(agent_id)
                if not watchers:
                    del self._watchers[task_id]

    def subscribe(self, client: Client, entry: Entry) -> bool:
        """This client gets the result too. False if there are too many further subscriptions."""
        name = entry.subscriber
        if name == client.agent_id:
            return True
        if name not in self.connected:
            entry.subscriber = client.agent_id
            return True
        if entry.task_id not in self._watchers and len(self._watchers) >= self._config.max_watched:
            return False
        self._watchers.setdefault(entry.task_id, set()).add(client.agent_id)
        client.watched.add(entry.task_id)
        return True

    # ------------------------------------------------------------ results

    def forward(self, entry: Entry, encoded: bytes) -> None:
        """Give the result to those who wait; with the next flush."""
        client = self.connected.get(entry.subscriber)
        if client is not None:
            if not client.results:
                self._dirty[client.agent_id] = client
            client.results.append(encoded)
        if self._watchers:
            for name in self._take_watchers(entry.task_id):
                watcher = self.connected.get(name)
                if watcher is not None:
                    self.give(watcher, encoded)

    def give(self, client: Client, encoded: bytes) -> None:
        """A result for one client; with the next flush."""
        self._dirty[client.agent_id] = client
        client.results.append(encoded)

    def waiting_for(self, entry: Entry) -> list[Client]:
        """Everybody who is to get this result; forgets the subscriptions."""
        names = [entry.subscriber, *self._take_watchers(entry.task_id)]
        return [self.connected[name] for name in names if name in self.connected]

    def _take_watchers(self, task_id: str) -> set[str]:
        watchers = self._watchers.pop(task_id, None)
        if watchers is None:
            return set()
        for name in watchers:
            client = self.connected.get(name)
            if client is not None:
                client.watched.discard(task_id)
        return watchers

    def flush(self, now: Now) -> list[Effect]:
        """The gathered results, one message for each client (more where they are large), and backlogs whose time has
        come.
        """
        out: list[Effect] = []
        if self._backlogged:
            self._retry(out, now)
        if self._dirty:
            limit = self._config.message_bytes
            for client in self._dirty.values():
                parts, client.results = client.results, []
                for run in split(parts, limit):
                    message = results_message(client.agent_id, run)
                    if client.backlog:
                        self._keep(client, message, sum(map(len, run)))
                    else:
                        out.append(message)
            self._dirty = {}
        return out

    # ------------------------------------------------------------ slow clients

    def undelivered(self, effect: Send, reason: str, now: Now) -> None:
        """Its outbox is full: keep the message for a while. Any other reason: it is gone, or will never take it."""
        client = self.connected.get(effect.to)
        if client is None or reason != "busy":
            return
        self._keep(client, effect, len(orjson.dumps(effect.payload)))
        client.retry_at = now.mono + self._config.requeue_delay_s

    def _keep(self, client: Client, message: Send, size: int) -> None:
        client.backlog.append((message, size))
        client.backlog_bytes += size
        self._backlogged[client.agent_id] = client
        while client.backlog_bytes > self._config.max_backlog_bytes:
            _, oldest = client.backlog.popleft()
            client.backlog_bytes -= oldest
            client.dropped += 1
            self.dropped += 1

    def _retry(self, out: list[Effect], now: Now) -> None:
        for client in list(self._backlogged.values()):
            if client.retry_at > now.mono:
                continue
            client.retry_at = now.mono + self._config.requeue_delay_s
            for _ in range(min(BACKLOG_CHUNK, len(client.backlog))):
                message, size = client.backlog.popleft()
                client.backlog_bytes -= size
                out.append(message)
            if not client.backlog:
                del self._backlogged[client.agent_id]

    def next_deadline(self) -> float:
        return min((client.retry_at for client in self._backlogged.values()), default=math.inf)
