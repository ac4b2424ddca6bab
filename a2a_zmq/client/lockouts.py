"""Whether keys fit, address by address, and when waiting for that is in vain. Pure.

Keys do not fit where the coordinator refuses them, or has others than we know of, or where we have none of it. One
address of which that is true says nothing about the others, so nobody is kept from waiting before it is true of all.

One refusal says little, too: our greeting may have been on its way as a clock was set, or keys were changed, and the
coordinator may be gone before it answers the next one. So it takes two of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

# Reasons that say that keys do not fit, and how long one of them lasts before nobody is kept waiting for its end: a
# coordinator that learns of our key does so within a second; one that hangs up may also be about to end.
KEYS_DO_NOT_FIT: Final = {"auth": 2.0, "handshake": 5.0, "protocol": 5.0}


class Lockouts:
    """See the module's text.

    Attributes:
        give_up_at: monotonic time from which waiting is in vain (inf: there is hope).
        gave_up: those who waited were told so.
        turned_away: the present connection was refused.
    """

    def __init__(self) -> None:
        self.give_up_at = math.inf
        self.gave_up = False
        self.turned_away = False
        self._addresses: frozenset[str] = frozenset(("",))
        self._address = ""
        self._until: dict[str, float] = {}  # of each address at which keys do not fit: when to stop hoping that they do
        self._once: dict[str, float] = {}  # of each that refused us: what its first refusal said of that
        self._unknown: set[str] = set()  # addresses of whose coordinators we have no keys

    def at(self, addresses: Iterable[str], address: str) -> None:
        """These are all; what is told from now on is about this one, whose keys we have."""
        self._addresses = frozenset(addresses)
        self._address = address
        self.turned_away = False
        if address in self._unknown:
            self._unknown.discard(address)
            self.fits()

    def refused(self, give_up_at: float) -> None:
        """Keys do not fit at the present address; that may change until this time."""
        self.turned_away = True
        if (earlier := self._once.get(self._address)) is None:
            self._once[self._address] = give_up_at
        else:
            self._add(self._address, min(earlier, give_up_at))

    def unknown(self, address: str, give_up_at: float) -> None:
        """There are no keys of the coordinator at this address; until there are, nothing else can be told of it."""
        self._unknown.add(address)
        self._add(address, give_up_at)

    def fits(self) -> None:
        """Keys fit at the present address, or something else keeps it from answering."""
        if self._address not in self._unknown:
            self._once.pop(self._address, None)
            self._until.pop(self._address, None)
            self._weigh()

    def session(self) -> None:
        """The present address lets us in; what was seen at the others will be old when it does not any more."""
        self._once.clear()
        self._until = {address: until for address, until in self._until.items() if address in self._unknown}
        self._weigh()

    def everywhere(self) -> bool:
        """Keys fit at no address."""
        return self._until.keys() >= self._addresses

    def _add(self, address: str, give_up_at: float) -> None:
        self._until[address] = min(self._until.get(address, math.inf), give_up_at)
        self._weigh()

    def _weigh(self) -> None:
        if self.everywhere():
            self.give_up_at = max(self._until.values())
        else:
            self.give_up_at, self.gave_up = math.inf, False
