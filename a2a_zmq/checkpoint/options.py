"""How long checkpoints are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retention:
    """What every write of a saver trims its thread to.

    Attributes:
        keep: newest checkpoints of each namespace that stay; None keeps all. Older ones that a ``DeltaChannel`` of a
            kept one is rebuilt from stay too. A subgraph call's checkpoints go with the one that the call started from.
        ttl_s: the whole thread goes this long after its last write; None keeps it until it is deleted.
    """

    keep: int | None = 100
    ttl_s: float | None = 30 * 86400.0

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"keep must be at least 1: {self.keep}")
        if self.ttl_s is not None and self.ttl_s < 1:
            raise ValueError(f"ttl_s must be at least a second: {self.ttl_s}")

    @property
    def arguments(self) -> tuple[int, int]:
        """Milliseconds to live and number kept as scripts get them; 0 is for ever, and all."""
        return (round(self.ttl_s * 1000) if self.ttl_s is not None else 0, self.keep or 0)
