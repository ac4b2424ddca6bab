"""Reading tasks' streams: what has come, how much more may come, from where to go on. Pure.

The coordinator sends what follows the last event that we have, as far as our credit goes, which is bytes. Each session
begins with what we have by then; so does a stream of which a message does not follow the last one. Each time it gets a
new number, and what comes under another one is not taken.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from a2a_zmq.client.entries import Outbound
from a2a_zmq.client.submission import InvalidTask
from a2a_zmq.clock import Now
from a2a_zmq.errors import FleetError, FleetUnavailable
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.streams import GAP, START, WAITING, EventId, StreamEvent, id_text, parse_id

# What may be here and not be taken yet; a message more at most.
WINDOW_BYTES: Final = 256 * 1024


def place(after: str | None) -> EventId:
    """Where to begin reading.

    Raises:
        RequestRefused: it is no event's id.
    """
    found = START if after is None else parse_id(after)
    if found is None:
        raise InvalidTask(f"{after!r} is not the id of an event (as in 1-17)")
    return found


class Stream:
    """One reader of a task's stream. Filled on one thread and taken on another one or the same.

    Attributes:
        task_id: the task.
        position: the last event that has come.
        arrived: events and their bytes, as they count for the credit.
        over: nothing more comes.
        error: why, unless the task has ended.
        number: the coordinator's name for it, 0 if it was not asked for.
        held: bytes that have come and were not taken.
    """

    __slots__ = (
        "_granted",
        "_taken",
        "arrived",
        "asked",
        "error",
        "held",
        "number",
        "over",
        "position",
        "task_id",
        "wake",
    )

    def __init__(self, task_id: str, after: EventId, wake: Callable[[], None]) -> None:
        """
        Args:
            after: read what follows this event.
            wake: called when something has come.
        """
        self.task_id = task_id
        self.position = after
        self.wake = wake
        self.arrived: deque[tuple[list[StreamEvent], int]] = deque()
        self.over = False
        self.error: FleetError | None = None
        self.number = 0
        self.held = 0
        self.asked = 0  # the attempt that asked last
        self._granted = 0
        self._taken = 0  # since credit was given last

    def begins(self, number: int) -> int:
        """Asked for anew under this number; the credit to begin with."""
        self.number = number
        self._taken = 0
        self._granted = max(0, WINDOW_BYTES - self.held)
        return self._granted

    def took(self, size: int) -> bool:
        """So many bytes were taken; True if that makes it worth giving credit."""
        self.held -= size
        return self.freed(size)

    def freed(self, size: int) -> bool:
        self._taken += size
        return self._taken > 0 and (self._taken >= WINDOW_BYTES // 2 or self.held <= 0)

    def credit(self) -> int:
        """The whole credit of this number so far."""
        self._granted += self._taken
        self._taken = 0
        return self._granted

    def end(self, error: FleetError | None = None) -> None:
        self.error = error
        self.over = True


class StreamTable:
    """All streams that are read."""

    def __init__(self) -> None:
        self._numbers = 0
        self._open: dict[int, Stream] = {}
        self._waiting: deque[Stream] = deque()
        self._asked: dict[str, tuple[int, Stream]] = {}
        self._delayed: list[tuple[float, int, Stream]] = []
        self._delays = 0
        self._crediting: dict[int, Stream] = {}
        self._closing: list[int] = []
        self._changed: dict[int, Stream] = {}  # by identity
        self._said: tuple[str, list[Stream], list[int]] = ("", [], [])  # the last message about credit

    def add(self, stream: Stream) -> None:
        self._waiting.append(stream)

    def close(self, stream: Stream) -> None:
        """Nobody reads it any more."""
        stream.over = True
        if self._open.pop(stream.number, None) is not None:
            self._closing.append(stream.number)

    def took(self, stream: Stream, size: int) -> bool:
        """Some of it was taken; True if there is something to send."""
        if stream.took(size) and stream.number in self._open:
            self._crediting[stream.number] = stream
            return True
        return False

    def hand_out(self) -> None:
        """Wake those for whom something has come."""
        if self._changed:
            changed, self._changed = self._changed, {}
            for stream in changed.values():
                stream.wake()

    # ------------------------------------------------------------ what comes

    def take(self, payload: dict[str, Any]) -> None:
        """``task_events``."""
        number = payload.get("stream")
        stream = self._open.get(number) if isinstance(number, int) else None
        if stream is None:
            if isinstance(number, int):
                self._closing.append(number)
            return
        if parse_id(payload.get("after")) != stream.position:
            self._again(stream)  # a message is missing
            return
        last = parse_id(payload.get("last")) or stream.position
        events = self._events(stream, payload)
        size = payload.get("size", 0)
        stream.position = max(stream.position, last)
        if events:
            stream.held += size
            stream.arrived.append((events, size))
        elif stream.freed(size):
            self._crediting[stream.number] = stream
        if payload.get("end"):
            del self._open[stream.number]
            stream.end()
        self._changed[id(stream)] = stream

    def unreadable(self, number: Any, error: FleetError) -> None:
        """What came of this stream cannot be read, nor can the rest be, then."""
        stream = self._open.pop(number, None) if isinstance(number, int) else None
        if stream is not None:
            self._closing.append(stream.number)
            stream.end(error)
            self._changed[id(stream)] = stream

    @staticmethod
    def _events(stream: Stream, payload: dict[str, Any]) -> list[StreamEvent]:
        found: list[StreamEvent] = []
        lost = payload.get("lost")
        if lost is not None:
            found.append(StreamEvent(lost, GAP, {"after": id_text(stream.position)}))
        for name, type_, data, ns in ((row[0], row[1], row[3], row[2]) for row in payload.get("events") or ()):
            if (parse_id(name) or START) > stream.position:
                found.append(StreamEvent(name, type_, data, tuple(ns)))
        waiting = payload.get("waiting")
        if isinstance(waiting, dict) and waiting.get("attempt", 0) > stream.asked:
            stream.asked = waiting["attempt"]
            found.append(StreamEvent(id_text(stream.position), WAITING, waiting))
        return found

    # ------------------------------------------------------------ what is asked

    def _again(self, stream: Stream) -> None:
        """Ask for it anew, from where it stands."""
        if self._open.pop(stream.number, None) is not None:
            self._closing.append(stream.number)
        self._waiting.append(stream)

    def restart(self) -> None:
        """A new session: ask for all of them."""
        delayed = (stream for _, _, stream in self._delayed)
        asked = (stream for _, stream in self._asked.values())
        every = {id(stream): stream for stream in (*self._waiting, *self._open.values(), *asked, *delayed)}
        self._waiting = deque(stream for stream in every.values() if not stream.over)
        self._open.clear()
        self._asked.clear()
        self._delayed.clear()
        self._crediting.clear()
        self._closing.clear()

    def next(self, now: Now, request_id: str) -> Outbound | None:
        """The next message, under this request id."""
        self.release(now)
        while self._waiting:
            stream = self._waiting.popleft()
            if stream.over:
                continue
            self._numbers += 1
            self._open[self._numbers] = stream
            self._asked[request_id] = (self._numbers, stream)
            payload = {"action": "stream_task", "task_id": stream.task_id, "after": id_text(stream.position)}
            window = stream.begins(self._numbers)
            return Outbound({**payload, "stream": self._numbers, "window": window}, request_id)
        if not self._crediting and not self._closing:
            return None
        streams = [stream for number, stream in self._crediting.items() if number in self._open]
        credits_ = [[stream.number, stream.credit()] for stream in streams]
        message = {"action": "stream_credit", "credits": credits_, "closed": self._closing}
        self._said = (request_id, streams, self._closing)
        self._crediting, self._closing = {}, []
        return Outbound(message, request_id, MessageType.EVENT)

    def release(self, now: Now) -> None:
        """Those whose time has come are asked for from now on."""
        while self._delayed and self._delayed[0][0] <= now.mono:
            self._waiting.append(heapq.heappop(self._delayed)[2])

    def next_deadline(self) -> float:
        return self._delayed[0][0] if self._delayed else math.inf

    def answered(self, request_id: str) -> bool:
        """True if the answer is to one of these."""
        return self._asked.pop(request_id, None) is not None

    def refused(self, request_id: str, error: FleetError, again_at: float | None) -> bool:
        """A request was refused; it is repeated at that time, or its stream is over."""
        number, stream = self._asked.pop(request_id, (0, None))
        if stream is None:
            return False
        if number != stream.number or stream.over:
            return True  # it was asked for again
        self._open.pop(number, None)
        if again_at is None:
            stream.end(error)
            self._changed[id(stream)] = stream
        else:
            self._delays += 1
            heapq.heappush(self._delayed, (again_at, self._delays, stream))
        return True

    def unsent(self, request_id: str, again_at: float) -> bool:
        """The link did not take the message; False if it is none of ours."""
        said, streams, closed = self._said
        if request_id == said:
            self._crediting.update((stream.number, stream) for stream in streams)
            self._closing = [*closed, *self._closing]
            return True
        return self.refused(request_id, FleetUnavailable("the outbox is full"), again_at)

    def fail(self, error: FleetError) -> None:
        """End all of them."""
        self.restart()
        for stream in self._waiting:
            if not stream.over:
                stream.end(error)
                self._changed[id(stream)] = stream
        self._waiting.clear()
