"""Requests that are not submissions, from the asking to the answer. Pure; the third table of the client's core."""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Any

from a2a_zmq.client.entries import Call, Outbound, refused_too_long
from a2a_zmq.clock import Now
from a2a_zmq.errors import FleetError, FleetUnavailable, RequestRefused


class CallTable:
    """Calls that wait to be sent, for an answer, or for the time at which they are asked again.

    Attributes:
        answered: calls whose ``answer`` is set; whoever hands them out empties it.
    """

    def __init__(self) -> None:
        self.answered: list[Call] = []
        self._waiting: deque[Call] = deque()
        self._asked: dict[str, Call] = {}
        self._delayed: list[tuple[float, int, Call]] = []
        self._delays = 0

    def add(self, call: Call) -> None:
        self._waiting.append(call)

    def next(self, now: Now, request_id: str) -> Outbound | None:
        """The next message, under this request id; None if there is none."""
        self.release(now)
        while self._waiting:
            call = self._waiting.popleft()
            if call.answer is None:
                self._asked[request_id] = call
                return Outbound({"action": call.action, **call.payload}, request_id)
        return None

    def release(self, now: Now) -> None:
        """Delayed calls whose time has come wait to be sent from now on."""
        while self._delayed and self._delayed[0][0] <= now.mono:
            self._waiting.append(heapq.heappop(self._delayed)[2])

    def next_deadline(self) -> float:
        """When a delayed call wants to be asked again."""
        return self._delayed[0][0] if self._delayed else math.inf

    # ------------------------------------------------------------ answers

    def answer(self, request_id: str, payload: dict[str, Any]) -> bool:
        """True if the answer is to one of these."""
        call = self._asked.pop(request_id, None)
        if call is not None:
            self._end(call, payload)
        return call is not None

    def refuse(self, request_id: str, code: str, text: str, again_at: float | None) -> bool:
        """A request was refused.

        Args:
            again_at: monotonic time at which it is asked again, None if the refusal is final.
        """
        call = self._asked.pop(request_id, None)
        if call is None:
            return False
        if again_at is None:
            self._end(call, RequestRefused(code, text))
        else:
            call.trouble = RequestRefused(code, text)
            self._delays += 1
            heapq.heappush(self._delayed, (again_at, self._delays, call))
        return True

    def resume(self, *, same_process: bool) -> None:
        """A new session: ask again what may be asked twice."""
        asked, self._asked = self._asked, {}
        for request_id, call in asked.items():
            if call.repeatable:
                self._waiting.append(call)
            elif same_process:
                self._asked[request_id] = call  # the link delivers it, once
            else:
                text = f"the coordinator was replaced while {call.action!r} was under way; look whether it was done"
                self._end(call, FleetUnavailable(text))

    def expire(self, now: Now, reach_error: FleetUnavailable | None, peer: str) -> float:
        """End calls whose deadline has passed; returns the next deadline (inf for none).

        Args:
            reach_error: why no coordinator is reachable, None if one is.
            peer: the coordinator.
        """
        earliest = math.inf
        for call in self._unanswered():
            if call.deadline > now.mono:
                earliest = min(earliest, call.deadline)
            elif reach_error is not None:
                self._end(call, reach_error)
            elif call.trouble is not None:
                self._end(call, refused_too_long(repr(call.action), call.trouble))
            else:
                text = f"coordinator {peer!r} did not answer {call.action!r} before the deadline"
                self._end(call, FleetUnavailable(text))
        self._drop_ended()
        return earliest

    def close(self, error: FleetUnavailable) -> None:
        """End all of them."""
        for call in self._unanswered():
            self._end(call, error)
        self._waiting.clear()
        self._asked.clear()
        self._delayed.clear()

    def _drop_ended(self) -> None:
        self._waiting = deque(call for call in self._waiting if call.answer is None)
        self._asked = {request_id: call for request_id, call in self._asked.items() if call.answer is None}
        self._delayed = [one for one in self._delayed if one[2].answer is None]
        heapq.heapify(self._delayed)

    def _unanswered(self) -> list[Call]:
        calls = [*self._waiting, *self._asked.values(), *(call for _, _, call in self._delayed)]
        return [call for call in calls if call.answer is None]

    def _end(self, call: Call, answer: dict[str, Any] | FleetError) -> None:
        call.answer = answer
        self.answered.append(call)
