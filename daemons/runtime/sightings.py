"""How long an agent that is gone is shown: in metrics, to Prometheus as a target, in the list of workers. Pure."""

from __future__ import annotations

from typing import Final

# One that was lost is shown as down until somebody must have seen it (seconds): a day.
LOST_S: Final = 86_400.0
# One that left in good order is gone on purpose, or being restarted: then it should not vanish in between.
LEFT_S: Final = 30.0


def forgotten(away_s: float, *, left: bool) -> bool:
    """Is an agent that has been away for so long shown no more?

    Args:
        left: it said good-bye, or its keys were revoked.
    """
    return away_s > (LEFT_S if left else LOST_S)
