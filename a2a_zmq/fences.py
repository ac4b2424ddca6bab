"""Whose word counts: the highest fence that an owner of some state showed. Pure."""

from __future__ import annotations

from typing import Final

# Epochs that were replaced and are remembered. A state is lost once in a blue moon.
_FORMER_KEPT: Final = 16


class FenceGuard:
    """Refuses an owner that was replaced.

    Fences only compare within one *epoch* of the state. Where it was lost (Redis was wiped) together with the owner's
    memory, fences begin anew in a new epoch. Epochs have no order of their own, so one that was replaced does not come
    back; unless the very process that replaced it says so: it was behind, and has caught up.

    Attributes:
        epoch, fence: of the owner whose word counts; "" and 0 before anybody showed one.
    """

    __slots__ = ("_former", "_set_by", "_speaker", "epoch", "fence")

    def __init__(self) -> None:
        self.epoch = ""
        self.fence = 0
        self._former: dict[str, None] = {}
        self._speaker = ""
        self._set_by = ""

    def hears(self, boot_id: str) -> None:
        """From now on it is this process that shows fences."""
        self._speaker = boot_id

    def admits(self, fence: int, epoch: str = "") -> bool:
        """Whether the owner with this fence counts; if so, lower ones do not from now on.

        Args:
            epoch: of its state, "" if it does not say.
        """
        if epoch and epoch != self.epoch:
            if epoch in self._former:
                if not self._speaker or self._set_by != self._speaker:
                    return False
                del self._former[epoch]
            if self.epoch:
                self._former[self.epoch] = None
                if len(self._former) > _FORMER_KEPT:
                    del self._former[next(iter(self._former))]
            self.epoch, self.fence, self._set_by = epoch, fence, self._speaker
        elif fence < self.fence:
            return False
        self.fence = fence
        return True
