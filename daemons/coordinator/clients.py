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

# Messages of a backlog that are tried again in one wake-up.
BACKLOG_CHUNK = 16


class Client:
    """One connected client process.

    Attributes:
        results, results_bytes: encoded result records gathered since the last flush.
        backlog, backlog_bytes: messages that its outbox had no room for, oldest first.
        watched: ids that it subscribed to beside their submitter.
        dropped: results and answers that are gone from here because it does not take them, and that it was not told
            of yet.
    """

    __slots__ = (
        "agent_id", "backlog", "backlog_bytes", "dropped", "identity", "results", "results_bytes", "retry_at", "role",
        "watched",
    )  # fmt: skip

    def __init__(self, agent_id: str, role: Role) -> None:
        self.agent_id = agent_id
        self.identity = identity_of(agent_id)
        self.role = role
        self.results: list[bytes] = []
        self.results_bytes = 0
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


def dropped_message(client: str, count: int) -> Send:
    """Tells a client to ask again for all that it waits for: so many messages for it are gone."""
    return Send(client, MessageType.EVENT, {"action": "task_results", "results": [], "dropped": count})


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
            self.give(client, encoded)
        if self._watchers:
            for name in self._take_watchers(entry.task_id):
                watcher = self.connected.get(name)
                if watcher is not None:
                    self.give(watcher, encoded)

    def give(self, client: Client, encoded: bytes) -> None:
        """A result for one client; with the next flush."""
        if not client.results:
            self._dirty[client.agent_id] = client
        client.results.append(encoded)
        client.results_bytes += len(encoded)

    def subscribers(self, entry: Entry) -> list[Client]:
        """Everybody who is to get this task's result."""
        names = [entry.subscriber, *self._watchers.get(entry.task_id, ())]
        return [self.connected[name] for name in names if name in self.connected]

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
            waiting: dict[str, Client] = {}
            for name, client in self._dirty.items():
                if client.backlog:  # gathered until that is gone, so that few large messages follow it
                    waiting[name] = client
                    self._bound(client)
                    continue
                parts, client.results, client.results_bytes = client.results, [], 0
                out.extend(results_message(name, run) for run in split(parts, limit))
            self._dirty = waiting
        return out

    # ------------------------------------------------------------ slow clients

    def undelivered(self, effect: Send, reason: str, now: Now) -> None:
        """Its outbox is full: keep the message for a while. Any other reason: it is gone, or will never take it."""
        client = self.connected.get(effect.to)
        if client is None or reason != "busy":
            return
        size = len(orjson.dumps(effect.payload))
        client.backlog.append((effect, size))
        client.backlog_bytes += size
        self._backlogged[client.agent_id] = client
        self._bound(client)
        client.retry_at = now.mono + self._config.requeue_delay_s

    def _bound(self, client: Client) -> None:
        """Drop what is too much, oldest first. It is told, because it may wait for what is gone: answers, too."""
        most = self._config.max_backlog_bytes
        while client.backlog and client.backlog_bytes + client.results_bytes > most:
            _, size = client.backlog.popleft()
            client.backlog_bytes -= size
            self._dropped(client, 1)
        if client.results_bytes > most:
            self._dropped(client, len(client.results))
            client.results, client.results_bytes = [], 0

    def _dropped(self, client: Client, count: int) -> None:
        client.dropped += count
        self.dropped += count

    def _retry(self, out: list[Effect], now: Now) -> None:
        for client in list(self._backlogged.values()):
            if client.retry_at > now.mono:
                continue
            # What is still refused comes back before the next flush, and with it a later time.
            for _ in range(min(BACKLOG_CHUNK, len(client.backlog))):
                message, size = client.backlog.popleft()
                client.backlog_bytes -= size
                out.append(message)
            if not client.backlog:
                del self._backlogged[client.agent_id]
                if client.dropped:
                    out.append(dropped_message(client.agent_id, client.dropped))
                    client.dropped = 0

    def next_deadline(self) -> float:
        return min((client.retry_at for client in self._backlogged.values()), default=math.inf)
