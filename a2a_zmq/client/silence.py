"""When a client asks again for everything that is under way because nothing has come for long.

A coordinator drops results of a client that does not take them in time. So after a silence all of them are asked for;
the pause doubles up to its bound while nothing comes.
"""

from __future__ import annotations

import math
from typing import Final

from a2a_zmq.clock import Now

ASK_AFTER_MIN_S: Final = 20.0
ASK_AFTER_MAX_S: Final = 300.0


class Silence:
    """See the module's text.

    Attributes:
        ask_at: monotonic time at which everything is asked for again (inf: nothing is waited for).
    """

    def __init__(self) -> None:
        self.ask_at = math.inf
        self._pause_s = ASK_AFTER_MIN_S

    def ended(self, now: Now, *, waiting: bool) -> None:
        """Something came; ``waiting`` says whether more is waited for."""
        self._pause_s = ASK_AFTER_MIN_S
        self.ask_at = now.mono + self._pause_s if waiting else math.inf

    def goes_on(self, now: Now, *, waiting: bool) -> None:
        """It was asked for: if nothing comes, it is asked for again after twice the pause."""
        self._pause_s = min(self._pause_s * 2, ASK_AFTER_MAX_S)
        self.ask_at = now.mono + self._pause_s if waiting else math.inf
