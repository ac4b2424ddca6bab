"""Whose word counts: the highest fence that an owner of some state showed. Pure."""

from __future__ import annotations

from typing import Final

# Epochs that were replaced and are remembered. A state is lost once in a blue moon.
_FORMER_KEPT: Final = 16


class FenceGuard:
    """Refuses an owner that was replaced.

    Fences only compare within one *epoch* of the state. Where it was lost (Redis was wiped) together with the owner's
    memory, fences begin anew in a new epoch; an epoch that was replaced never comes back.

    Attributes:
        epoch, fence: of the owner whose word counts; "" and 0 before anybody showed one.
    """

    __slots__ = ("_former", "epoch", "fence")

    def __init__(self) -> None:
        self.epoch = ""
        self.fence = 0
        self._former: dict[str, None] = {}

    def admits(self, fence: int, epoch: str = "") -> bool:
        """Whether the owner with this fence counts; if so, lower ones do not from now on.

        Args:
            epoch: of its state, "" if it does not say.
        """
        if epoch and epoch != self.epoch:
            if epoch in self._former:
                return False
            if self.epoch:
                self._former[self.epoch] = None
                if len(self._former) > _FORMER_KEPT:
                    del self._former[next(iter(self._former))]
            self.epoch, self.fence = epoch, fence
        elif fence < self.fence:
            return False
        self.fence = fence
        return True
