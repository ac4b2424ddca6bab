"""An engine over a scripted core and two plain ports, turned by hand."""

from __future__ import annotations

from daemons.runtime.engine import Engine
from daemons.runtime.outputs import Outputs, PendingBatch
from tests.unit.runtime.fakes import Counts, PlainPort, ScriptedCore, at, gained


class Stage:
    """An engine over one scripted core and two ports."""

    def __init__(self, *, owns_state: bool = True, own: bool = True) -> None:
        self.core = ScriptedCore()
        self.up, self.down = PlainPort(), PlainPort()
        self.meter = Counts()
        self.engine = Engine(self.core, [self.up, self.down], self.meter, owns_state=owns_state)
        if own and owns_state:
            self.engine.ownership_gained(gained(7))
            self.turn()

    def turn(self, mono: float = 0.0) -> Outputs:
        return self.engine.turn(at(mono))

    def batch(self, mono: float = 0.0) -> PendingBatch:
        """The batch that this turn hands out."""
        pending = self.turn(mono).apply
        assert pending is not None
        return pending

    def apply(self, pending: PendingBatch, version: int = 1, mono: float = 0.0) -> None:
        """The store applies what is left of a batch."""
        for offset in range(len(pending.batch.writes) - pending.done):
            assert self.engine.write_applied(pending, version + offset)
        self.engine.batch_applied(pending, at(mono))
