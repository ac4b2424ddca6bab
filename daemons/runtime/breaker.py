"""The circuit to Redis: closed while it serves us, open while it does not, half-open while what was kept is handed in.

Pure: times come in as arguments. There is one prober, the keeper of the lease, which asks at most once in
:meth:`Breaker.pause_s`; everything else fails at once while the circuit is not closed, so a Redis that starts is met
by a trickle and not by a stampede.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

# Between two probes: soon enough to be back well within three seconds, rare enough to leave a starting Redis alone.
PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 0.5
ACCIDENTS_TO_OPEN: Final = 2


class Circuit(Enum):
    """Values are those of the metric ``store_circuit``."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """See the module's text.

    Attributes:
        state: where the circuit is.
        reason: of the last failure, "" while closed.
        failures: since the last success.
        on_failure: called with the reason of each failure.
    """

    def __init__(self, rng: Callable[[], float], changed: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            rng: uniform in [0, 1), for the jitter of probes.
            changed: called after each transition.
        """
        self.state = Circuit.CLOSED
        self.reason = ""
        self.failures = 0
        self.on_failure: Callable[[str], None] = lambda _reason: None
        self._rng = rng
        self._changed = changed

    @property
    def closed(self) -> bool:
        return self.state is Circuit.CLOSED

    @property
    def again(self) -> bool:
        """It has been tried again since it opened, in vain."""
        return self.state is Circuit.OPEN and self.failures > ACCIDENTS_TO_OPEN

    def failed(self, reason: str, *, certain: bool = True) -> None:
        """An exchange with Redis failed.

        Args:
            reason: see :class:`a2a_zmq.errors.StoreUnavailable`.
            certain: False for what may be an accident, as one late reply.
        """
        self.failures += 1
        self.reason = reason
        self.on_failure(reason)
        if certain or self.state is not Circuit.CLOSED or self.failures >= ACCIDENTS_TO_OPEN:
            self._go(Circuit.OPEN)

    def answered(self) -> None:
        """A probe was answered: what was kept may be handed in; only that shows that writes are taken again."""
        if self.state is Circuit.OPEN:
            self._go(Circuit.HALF_OPEN)

    def succeeded(self) -> None:
        """Redis has taken all that there was to write."""
        self.failures = 0
        if self.state is not Circuit.CLOSED:
            self.reason = ""
            self._go(Circuit.CLOSED)

    def pause_s(self) -> float:
        """How long to wait before the next probe: doubling, bounded, with full jitter above the half."""
        most: float = min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(self.failures, 10))
        return most * (0.5 + 0.5 * self._rng())

    def _go(self, state: Circuit) -> None:
        if state is not self.state:
            self.state = state
            self._changed()
