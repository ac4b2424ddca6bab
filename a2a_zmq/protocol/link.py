"""The reliable link to one peer: ordered outbox, window, cumulative acknowledgements, deduplication.

Sending. A reliable message stays in the outbox until an acknowledgement covers its sequence number. The first part of
the outbox (the *window*) is on its way in the current session; when a session ends, what was on its way goes back to
the front and is sent again, in order, with the same request id and the new session's sequence numbers.

Receiving. ZeroMQ over TCP keeps order within a connection and a session's numbers have no gaps, so a message can only
come twice because a session ended before its acknowledgement arrived. Request ids of the last messages tell these
apart; a sender repeats at most its window, so a bounded memory of twice that is enough.

Bulk. What may be lost, and comes in any amount, is sent once, and only while nothing reliable waits and little of it is
unacknowledged; so it holds nothing up, and never adds up.

A repeated REQUEST needs no cache of answers. It was handled once; its answer either waits for durability in the role
core or is itself in the outbox of the answering side, where it stays until the requester acknowledged it. So a
repeated request is only acknowledged again. Only a peer with a new boot id never gets old answers: its outbox is
dropped, and the process that asked no longer exists. (A hub drops a dead worker's outbox too; it answers no worker.)
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from a2a_zmq.errors import Busy
from a2a_zmq.protocol.config import PortConfig
from a2a_zmq.protocol.message import MessageType


class Entry:
    """A message to send; ``payload`` is encoded once, when it is queued, ``seq`` is its number in this session or 0."""

    __slots__ = ("payload", "reply_to", "request_id", "seq", "traceparent", "type")

    def __init__(
        self,
        type_: MessageType,
        payload: bytes,
        request_id: str,
        reply_to: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.type = type_
        self.payload = payload
        self.request_id = request_id
        self.reply_to = reply_to
        self.traceparent = traceparent
        self.seq = 0


class Backlog(NamedTuple):
    messages: int
    bytes: int
    in_flight: int


class Link:
    """See the module. Knows nothing of keys, sockets or time."""

    __slots__ = (
        "_bulk", "_bulk_bytes", "_config", "_flight_bytes", "_in_flight", "_outbox_bytes", "_seen", "_waiting",
        "_worthy_count", "_worthy_first", "_worthy_last", "taken", "told",
    )  # fmt: skip

    def __init__(self, config: PortConfig) -> None:
        self._config = config
        self._in_flight: deque[Entry] = deque()
        self._waiting: deque[Entry] = deque()
        self._outbox_bytes = 0
        self._flight_bytes = 0
        self._seen: dict[str, None] = {}
        self._bulk: deque[tuple[int, int]] = deque()  # (number, bytes) of what is not acknowledged
        self._bulk_bytes = 0
        self._clear_acks()

    def _clear_acks(self) -> None:
        self.taken = 0  # highest number of theirs that our owner made durable
        self.told = 0  # highest number that we acknowledged to them
        self._worthy_first = 0  # lowest number not told that wants an acknowledgement, 0 if there is none
        self._worthy_last = 0  # highest number received that wants one
        self._worthy_count = 0  # how many were received since we last told

    # ------------------------------------------------------------ sending

    def offer(self, entry: Entry) -> None:
        """Queue a message.

        Raises:
            Busy: a bound is reached; nothing was queued.
        """
        if self.room() <= 0 or self._outbox_bytes + len(entry.payload) > self._config.outbox_max_bytes:
            raise Busy("outbox", self._config.busy_retry_s)
        self._waiting.append(entry)
        self._outbox_bytes += len(entry.payload)

    def room(self) -> int:
        """How many more messages fit by count; 0 once the bytes are used up."""
        if self._outbox_bytes >= self._config.outbox_max_bytes:
            return 0
        return self._config.outbox_max_messages - len(self._waiting) - len(self._in_flight)

    def takes_bulk(self) -> bool:
        """Whether a bulk message may go out now."""
        config = self._config
        return not self._waiting and len(self._bulk) < config.bulk_messages and self._bulk_bytes < config.bulk_bytes

    def sent_bulk(self, entry: Entry) -> None:
        """A bulk message went out, under its ``seq``."""
        self._bulk.append((entry.seq, len(entry.payload)))
        self._bulk_bytes += len(entry.payload)

    def backlog(self) -> Backlog:
        return Backlog(len(self._waiting) + len(self._in_flight), self._outbox_bytes, len(self._in_flight))

    def next(self) -> Entry | None:
        """The next message to put on its way, if the window has room. The caller sets ``seq``."""
        if not self._waiting or len(self._in_flight) >= self._config.window_messages:
            return None
        size = len(self._waiting[0].payload)
        if self._in_flight and self._flight_bytes + size > self._config.window_bytes:
            return None
        entry = self._waiting.popleft()
        self._in_flight.append(entry)
        self._flight_bytes += size
        return entry

    def acknowledged(self, seq: int) -> None:
        """The peer has durably taken everything up to this number."""
        flight = self._in_flight
        while flight and flight[0].seq <= seq:
            size = len(flight.popleft().payload)
            self._flight_bytes -= size
            self._outbox_bytes -= size
        while self._bulk and self._bulk[0][0] <= seq:
            self._bulk_bytes -= self._bulk.popleft()[1]

    def reset(self) -> None:
        """The session ended: what was on its way is sent again in the next one."""
        while self._in_flight:
            entry = self._in_flight.pop()
            entry.seq = 0
            self._waiting.appendleft(entry)
        self._flight_bytes = 0
        self._bulk.clear()
        self._bulk_bytes = 0
        self._clear_acks()

    def drop(self) -> None:
        """The peer's process is another one now: it has no memory of what the old one handled."""
        self.reset()
        self._waiting.clear()
        self._outbox_bytes = 0

    # ------------------------------------------------------------ receiving

    def received(self, seq: int, request_id: str) -> bool:
        """Note a message that wants an acknowledgement. Returns True if it came for the first time."""
        if not self._worthy_first:
            self._worthy_first = seq
        self._worthy_last = seq
        self._worthy_count += 1
        seen = self._seen
        if request_id in seen:
            return False
        seen[request_id] = None
        if len(seen) > self._config.dedup_ids:
            del seen[next(iter(seen))]
        return True

    def take(self, seq: int) -> None:
        """The owner made everything up to this number durable."""
        self.taken = max(self.taken, seq)

    @property
    def untold(self) -> bool:
        """Whether anything received still lacks its acknowledgement, durable or not."""
        return self._worthy_first > 0

    @property
    def owes_ack(self) -> bool:
        """Whether something durable that wants an acknowledgement has none yet."""
        return 0 < self._worthy_first <= self.taken

    @property
    def owes_many(self) -> bool:
        return self.owes_ack and self._worthy_count >= self._config.ack_every

    def tell(self) -> int:
        """The number to put into the next message's ``ack``."""
        self.told = self.taken
        if self._worthy_last > self.told:
            if self._worthy_first <= self.told:
                # Some of what came later still waits for its acknowledgement; a lower bound of its number is enough.
                self._worthy_first = self.told + 1
        else:
            self._worthy_first = 0
            self._worthy_count = 0
        return self.told
