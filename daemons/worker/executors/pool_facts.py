"""What the process pool knows besides its children and runs: whether children start, and how long runs take."""

from __future__ import annotations

from typing import Final

# A second task is given ahead only where the runs of its type are shorter than this on average: waiting behind a long
# one would cost more than the 0.1–0.3 ms that it saves.
SHORT_RUN_S: Final = 0.05
# Weight of the newest run in the mean of its type.
MEAN_SHARE: Final = 0.2
# Children that die before they are ready: pause between attempts, and after how many the waiting runs fail.
START_PAUSE_S: Final = 0.2
START_FAILURES: Final = 3


class Starts:
    """Attempts to start children.

    Attributes:
        after: monotonic time before which no other one is made.
        problem: why no child can be started, "" if they can.
    """

    def __init__(self) -> None:
        self.after = 0.0
        self.problem = ""
        self._failures = 0

    def succeeded(self) -> None:
        self._failures, self.problem = 0, ""

    def failed(self, now: float, error: str) -> bool:
        """One more failed; True if the runs that wait for it are to fail, too."""
        self._failures += 1
        self.after = now + START_PAUSE_S * min(self._failures, 25)
        if self._failures < START_FAILURES:
            return False
        self.problem = error
        return True


class RunTimes:
    """Mean length of the runs of each task type."""

    def __init__(self) -> None:
        self._mean_s: dict[str, float] = {}

    def ended(self, task_type: str, seconds: float) -> None:
        mean = self._mean_s.get(task_type, seconds)
        self._mean_s[task_type] = mean + (seconds - mean) * MEAN_SHARE

    def short(self, task_type: str) -> bool:
        return self._mean_s.get(task_type, 1.0) < SHORT_RUN_S
