"""One reader's way through a task's stream: what may be sent to it now, and what has to be read from the store. Pure.

Live chunks and the store tell the same: a chunk passes live when it follows the last one that was sent and the reader
has room; else it is let go, and read from the store later, when there is room. So nothing waits here, however slow the
reader is, and however many there are.

::

    live ── follows, and there is room ──────────────────────────> reader
      └──── else: behind ── room ──> read ── what follows ───────> reader
                              ^         └─── there is more ──┐
                              └──────────────────────────────┘
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from a2a_zmq.streams import START, Chunk, EventId

# Nothing was heard of a stream for so long: look whether something was lost on its way.
QUIET_S: Final = 1.0
# Between two attempts to read from a store that is away, or to send to a reader whose link has no room.
AGAIN_S: Final = 0.1
# A message to a reader has about so much, and one event more at most; a frame carries 1 MiB.
MESSAGE_BYTES: Final = 128 * 1024


class Delivery(NamedTuple):
    """Events for a reader.

    Attributes:
        after: the event before them, as far as this reader is concerned.
        last: the last of them.
        events: JSON arrays of events; the first of them may begin with some that are not after ``after``.
        size: bytes, as its window counts them.
        lost: what came next after ``after`` is not kept any more; the last event of which nothing is left.
    """

    after: EventId
    last: EventId
    events: list[bytes]
    size: int
    lost: EventId | None


class Feed:
    """See the module.

    Attributes:
        position: the last event that was sent to the reader.
        heard: the last event that went by.
        behind: the store may have more.
        reading: a read of the store is under way.
        look_at: monotonic time at which the store is read although nothing was heard.
    """

    __slots__ = ("_granted", "_not_before", "_sent", "behind", "heard", "look_at", "position", "reading")

    def __init__(self, after: EventId, window: int) -> None:
        """
        Args:
            after: what the reader has seen.
            window: bytes that it takes.
        """
        self.position = after
        self.reading = False
        self.behind = True
        self.look_at = math.inf
        self._not_before = -math.inf
        self.heard = START
        self._granted = window
        self._sent = 0

    @property
    def room(self) -> bool:
        """The reader takes something. (It gets one chunk more than that at most.)"""
        return self._sent < self._granted

    def wants_read(self, mono: float) -> bool:
        return self.behind and not self.reading and self.room and mono >= self._not_before

    @property
    def caught_up(self) -> bool:
        """Everything that there is was sent."""
        return not self.behind and not self.reading

    @property
    def lacking(self) -> bool:
        """An event went by that was not sent, though everything in the store was."""
        return self.heard > self.position

    def grant(self, total: int) -> None:
        """The reader takes so many bytes since the beginning."""
        self._granted = max(self._granted, total)

    def live(self, chunk: Chunk, mono: float) -> Delivery | None:
        """A chunk came by. (The first of an attempt may have overtaken what the one before was still telling.)"""
        if chunk.last <= self.position:
            return None
        self.heard = max(self.heard, chunk.last)
        follows = chunk.prev == self.position and chunk.prev[0] == chunk.last[0]
        if self.behind or self.reading or not self.room or not follows:
            self.behind = True
            return None
        return self._deliver([chunk], mono)

    def stops(self) -> None:
        """The task has ended, or waits for an answer: what is in the store now is all (so far)."""
        self.behind = True

    def begins_read(self) -> None:
        self.reading, self.behind = True, False

    def read(self, chunks: list[Chunk], mono: float, *, whole: bool) -> Delivery | None:
        """What the store has after :attr:`position`, or the beginning of it."""
        self.reading = False
        self.look_at = mono + QUIET_S
        new = [chunk for chunk in chunks if chunk.last > self.position]
        fits: list[Chunk] = []
        size = self._sent
        for chunk in new:
            if size >= self._granted or size - self._sent >= MESSAGE_BYTES:
                break
            fits.append(chunk)
            size += len(chunk.events)
        self.behind = self.behind or not whole or len(fits) < len(new)
        return self._deliver(fits, mono) if fits else None

    def unread(self, mono: float) -> None:
        """The store could not be read."""
        self.reading = False
        self._again(mono)

    def undelivered(self, delivery: Delivery, mono: float) -> None:
        """The reader's link had no room for it: as if it had not been read."""
        self._sent -= delivery.size
        self.position = min(self.position, delivery.after)
        self._again(mono)

    def look(self, mono: float) -> None:
        """Time has passed."""
        if mono >= self.look_at:
            self.look_at = math.inf
            self.behind = True

    def _again(self, mono: float) -> None:
        self.behind = True
        self.look_at = self._not_before = mono + AGAIN_S

    def _deliver(self, chunks: list[Chunk], mono: float) -> Delivery:
        after, self.position = self.position, chunks[-1].last
        size = sum(len(chunk.events) for chunk in chunks)
        self._sent += size
        self.look_at = mono + QUIET_S
        lost = chunks[0].prev if chunks[0].prev > after else None
        return Delivery(after, self.position, [chunk.events for chunk in chunks], size, lost)
