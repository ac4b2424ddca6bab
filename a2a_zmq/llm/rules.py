"""What is decided about calls to models. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from a2a_zmq.errors import ModelBusy

# A provider that says "in a month" is believed for an hour.
LONGEST_PAUSE_S: Final = 3600.0
# Who waits looks again within these: what is ahead of it may have gone, or been given up.
SOONEST_S: Final = 0.05
LATEST_S: Final = 1.0
BACKOFF_S: Final = 0.5
LONGEST_BACKOFF_S: Final = 8.0
# The provider asks for less; 529 is Anthropic's "overloaded".
THROTTLED: Final = (429, 503, 529)
# Another try may have another end; what the providers' own clients try again.
TRANSIENT: Final = frozenset({408, 409, 425, 500, 502, 504, *THROTTLED})


class Answer(NamedTuple):
    """What Redis said of a call that wants to begin.

    Attributes:
        wait_s: what it will take at least; if a place is missing, nobody knows.
        missing: ``requests``, ``tokens``, ``concurrency``, ``paused``.
    """

    granted: bool
    wait_s: float
    missing: str


class Waiting:
    """A call that waits for its turn, and how long it will.

    Attributes:
        missing: what was missing last.
    """

    def __init__(self, provider: str, now: float, until: float) -> None:
        """
        Args:
            now, until: monotonic times; it gives up when it cannot begin by then.
        """
        self._provider = provider
        self._until = until
        self.began = now
        self.missing = ""

    def pause(self, answer: Answer, now: float, chance: float) -> float:
        """Seconds until it asks again.

        Args:
            chance: 0 to 1, by which those who wait for the same thing do not ask all at once.

        Raises:
            ModelBusy: it would be too late.
        """
        self.missing = answer.missing
        if now >= self._until or answer.wait_s > self._until - now:
            raise ModelBusy(self._provider, answer.missing, max(answer.wait_s, SOONEST_S))
        pause = min(max(answer.wait_s, SOONEST_S), LATEST_S) * (1 + chance / 4)
        return min(pause, max(0.001, self._until - now))


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds that an answer's headers ask to wait; None if they do not.

    ``Retry-After`` is seconds or an HTTP date; the date is compared with the answer's own (``Date``), so that our clock
    does not matter. OpenAI says ``retry-after-ms``, too, which is more exact.
    """
    named = {name.lower(): value.strip() for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        seconds = _number(named.get(name, ""))
        if seconds is not None:
            return min(max(0.0, seconds / unit), LONGEST_PAUSE_S)
    then = _date(named.get("retry-after", ""))
    if then is None:
        return None
    return min(max(0.0, then - (_date(named.get("date", "")) or wall)), LONGEST_PAUSE_S)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number else None  # noqa: PLR0124 - what NaN is


def _date(text: str) -> float | None:
    try:
        found: datetime = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


class Failure(NamedTuple):
    """What became of a request that failed.

    Attributes:
        reason: HTTP status, ``timeout``, ``connection``, ``cancelled`` or ``other``.
        again: another try may have another end.
        pause_s: for how long nobody asks the provider anything; 0 for not at all.
        sleep_s: until we try again ourselves.
        unbilled: the provider has certainly done nothing for it.
    """

    reason: str
    again: bool
    pause_s: float
    sleep_s: float
    unbilled: bool


def judge(kind: str, status: int | None, asked_s: float | None, tries: int, rng: Callable[[], float]) -> Failure:
    """
    Args:
        kind: where there is no status: ``timeout``, ``connection``, ``cancelled`` or ``other``.
        asked_s: what the provider asked us to wait.
        tries: so many before this one.
    """
    backoff = min(BACKOFF_S * 2.0**tries, LONGEST_BACKOFF_S) * (0.75 + rng() / 2)
    if status is None:
        return Failure(kind, kind in ("timeout", "connection"), 0.0, backoff, kind == "connection")
    if status in THROTTLED and asked_s is not None:
        return Failure(str(status), True, asked_s, 0.0, True)
    if status == 429:
        return Failure("429", True, backoff, 0.0, True)
    return Failure(str(status), status in TRANSIENT, 0.0, backoff, status < 500)
