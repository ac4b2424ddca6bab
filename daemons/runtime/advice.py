"""One policy of the user's, as a core asks it: a question at a time, never for longer than allowed. Pure.

What is asked about, and what an answer means, is the core's affair. Here is what all policies share: who is late or
fails is counted and logged, and one that fails a few times in a row gets a rest, in which nobody waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from a2a_zmq.clock import Now
from daemons.runtime.consults import Consult, Consulted
from daemons.runtime.contract import Log, Meter

# After so many questions in a row without a good answer it gets a rest.
GIVE_UP_AFTER: Final = 3
LOG_PAUSE_S: Final = 30.0
# Whoever runs the graph ends it in time; we wait so much longer for it to say so, and not at all if it hangs itself.
GRACE_S: Final = 0.05


class Adviser:
    """See the module's text.

    Attributes:
        wait_s: the longest that a question stays open.
        since: when the open question was asked (monotonic); None if none is open.
    """

    def __init__(
        self, policy: str, answer: str, *, timeout_s: float, rest_s: float, meter: Meter, log: Callable[[Log], None]
    ) -> None:
        """
        Args:
            policy: its name in metrics and logs.
            answer: the member of the graph's output that has the decisions, a dict.
            timeout_s: 0: there is no policy.
        """
        self.since: float | None = None
        self.wait_s = timeout_s + GRACE_S
        self._policy = policy
        self._answer = answer
        self._timeout_s = timeout_s
        self._rest_s = rest_s
        self._meter = meter
        self._log = log
        self._count = 0
        self._tasks = 0
        self._failures = 0
        self._rest_until = -math.inf
        self._logged_at = -math.inf

    def allow(self, timeout_s: float) -> None:
        """Wait so long from now on, for the answer to an open question too."""
        self._timeout_s = timeout_s
        self.wait_s = timeout_s + GRACE_S

    def __bool__(self) -> bool:
        """Whether there is a policy."""
        return self._timeout_s > 0

    def rests(self, now: float) -> bool:
        return now < self._rest_until

    def ask(self, facts: dict[str, Any], now: float) -> Consult:
        """The question about these ``facts["tasks"]``; none may be open."""
        self._count += 1
        self._tasks = len(facts["tasks"])
        self.since = now
        return Consult(self._count, facts, self._timeout_s, self._answer)

    def deadline(self) -> float:
        """When the open question is late (inf if none is open)."""
        return math.inf if self.since is None else self.since + self.wait_s

    def gives_up(self, now: Now) -> bool:
        """Whether the open question is late; then it is open no more."""
        if now.mono < self.deadline():
            return False
        self._failed("late", f"no answer after {self._timeout_s:g} s", now)
        return True

    def hear(self, event: Consulted, now: Now) -> dict[Any, Any] | None:
        """The decisions; none of them if the policy failed. None: it says nothing of the open question."""
        if self.since is None or event.question_id != self._count:
            return None
        self._meter.observe("policy_seconds", now.mono - self.since, policy=self._policy)
        if event.reason:
            self._failed(event.reason, event.why, now)
        elif not isinstance(event.answer, dict):
            self._failed("invalid", f"the output has no dict `{self._answer}`", now)
        else:
            self.since = None
            self._failures = 0
            return event.answer
        return {}

    def fell_back(self, reason: str, tasks: int) -> None:
        """So many were decided on the built-in way."""
        self._meter.count("policy_fallbacks_total", tasks, policy=self._policy, reason=reason)

    def wrong(self, why: str, now: Now) -> None:
        """Its decision on one task cannot be used."""
        self.fell_back("invalid", 1)
        self._say("invalid", why, now)

    def _failed(self, reason: str, why: str, now: Now) -> None:
        self.since = None
        self._failures += 1
        if self._failures >= GIVE_UP_AFTER:  # from then on one failure more is enough
            self._rest_until = now.mono + self._rest_s
        self.fell_back(reason, self._tasks)
        self._say(reason, why, now)

    def _say(self, reason: str, why: str, now: Now) -> None:
        if now.mono - self._logged_at >= LOG_PAUSE_S:
            self._logged_at = now.mono
            self._log(Log("warning", "policy_failed", {"policy": self._policy, "reason": reason, "why": why}))
