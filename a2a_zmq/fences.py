"""Whose word counts: the highest fence that an owner of some state showed. Pure."""

from __future__ import annotations

from typing import Any, Final

# Epochs that were replaced and are remembered. A state is lost once in a blue moon.
_FORMER_KEPT: Final = 16
# So often a former epoch is refused. What its owner wants is repeated after seconds, and safe to do: the fences in the
# store and attempt numbers decide what counts.
_REFUSALS: Final = 3
# No owner comes so far by itself: what is said beyond is not believed, so there is always a number above.
_HIGHEST: Final = 2**52


class FenceGuard:
    """Refuses an owner that was replaced.

    Fences only compare within one *epoch* of the state. Where it was lost (Redis was wiped) together with the owner's
    memory, fences begin anew in a new epoch. Epochs have no order of their own, so one that was replaced is refused;
    unless the very process that replaced it says so (it was behind, and has caught up), or it is said again and again:
    an owner that was replaced learns of it at its next write.

    Attributes:
        epoch, fence: of the owner whose word counts; "" and 0 before anybody showed one.
    """

    __slots__ = ("_former", "_set_by", "_speaker", "epoch", "fence")

    def __init__(self) -> None:
        self.epoch = ""
        self.fence = 0
        self._former: dict[str, int] = {}  # → how often it was refused
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
                caught_up = self._speaker and self._set_by == self._speaker
                if not caught_up and self._former[epoch] < _REFUSALS:
                    self._former[epoch] += 1
                    return False
                del self._former[epoch]
            if self.epoch:
                self._former[self.epoch] = 0
                if len(self._former) > _FORMER_KEPT:
                    del self._former[next(iter(self._former))]
            self.epoch, self.fence, self._set_by = epoch, fence, self._speaker
        elif fence < self.fence:
            return False
        self.fence = fence
        return True

    def obeys(self) -> dict[str, Any]:
        """What we say of it to whoever acts, or will act, as the owner; see :func:`obeyed_above`."""
        return {"obeys": {"fence": self.fence, "epoch": self.epoch}} if self.epoch else {}


def obeyed_above(details: dict[str, Any], fence: int, epoch: str) -> int:
    """The fence that this peer says to have obeyed, if it is of our epoch and higher than ours; else 0.

    Then the owner that showed it is a later one than we are, or the store has lost it. (Peers of an earlier release
    do not say; what is malformed counts as not said.)
    """
    obeys = details.get("obeys")
    if type(obeys) is not dict or not epoch or obeys.get("epoch") != epoch:
        return 0
    shown = obeys.get("fence")
    return shown if type(shown) is int and fence < shown <= _HIGHEST else 0
