"""How an agent stands with its fleet: its own keys, and what keeps it out of the hubs that it connects to.

What is in the way is told by ``/readyz``, and by the log: once it has lasted a moment (restarts and first starts look
the same for as long), then every half minute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from a2a_zmq.protocol.session import Phase
from a2a_zmq.protocol.spoke import Spoke
from a2a_zmq.security.identity import Identity

# An obstacle is logged when it is older than this, and again at these intervals for as long as it is there.
NOTICE_S: Final = 1.0
REMIND_S: Final = 30.0

# What stands for our section among the hubs; no agent is called so.
SECTION: Final = ""

# A connection on which a hub answers no greeting for this long is made anew: of a key that it does not let in (any
# more) it says nothing, except when the connection is made.
GREETING_S: Final = 5.0

# What the transport's reasons mean.
_TROUBLE: Final = {
    "auth": "it does not know our key",
    "protocol": "what answers there does not speak our protocol",
    "handshake": "it hung up: it has other keys than we know of, or is none of the fleet",
    "silent": "it does not answer",
    "unreachable": "nothing listens there",
}


class Standing:
    """Ask it at every supervision interval (:meth:`look`) and for every readiness probe (:meth:`why`)."""

    def __init__(self, agent_id: str, identity: Identity, log: Any) -> None:
        self._agent_id = agent_id
        self._identity = identity
        self._log = log
        self.lease_holder: Callable[[], str] = str  # who has the lease that we wait for, "" for nobody
        self.unreadable: Callable[[], str] = str  # why we cannot read our section, "" if we can
        self._spokes: dict[str, Spoke] = {}
        self._retry: dict[str, Callable[[], None]] = {}
        self._greeting: dict[str, float] = {}  # hub → since when it has been greeted in vain
        self._failed: dict[str, str] = {}  # hub → why the last attempt to connect failed
        self._since: dict[str, float] = {}  # what is in the way → since when; next line in the log
        self._remind_at: dict[str, float] = {}
        self._told_of_section: str | None = None

    def watch(self, hub: str, spoke: Spoke, reconnect: Callable[[], None]) -> None:
        """
        Args:
            reconnect: makes the spoke's connection anew.
        """
        self._spokes[hub] = spoke
        self._retry[hub] = reconnect

    def failed(self, hub: str, address: str, reason: str) -> None:
        """An attempt to connect to this hub failed, for one of the transport's reasons."""
        self._failed[hub] = f"{address}: {_TROUBLE.get(reason, reason)}"

    @property
    def shut_out(self) -> str:
        """Why nobody takes anything from us; "" if our keys are good."""
        if not self._identity.revoked(self._agent_id, ""):
            return ""
        return f"the keys of {self._agent_id} are revoked; `a2actl keys add {self._agent_id}` admits it again"

    def obstacles(self) -> dict[str, str]:
        """What is in the way now, by hub."""
        if self.shut_out:
            return {self._agent_id: self.shut_out}
        found = {}
        for hub, spoke in self._spokes.items():
            if spoke.phase is not Phase.IDLE:
                self._failed.pop(hub, None)  # there is a connection
            if spoke.phase is not Phase.ACTIVE and not spoke.shut:
                text = spoke.obstacle or self._failed.get(hub, "")
                if spoke.phase is Phase.GREETING:
                    text = text or f"{hub} does not answer our greeting"
                if text:
                    found[hub] = text
        if unreadable := self.unreadable():
            found[SECTION] = f"the section cannot be read: {unreadable}"
        elif not found and (why := self._lease_is_held()):
            found[self._agent_id] = why
        return found

    def _lease_is_held(self) -> str:
        """Why we shall hardly get the lease that we wait for; "" if all is as it should be with a standby."""
        holder = self.lease_holder()
        if holder == self._agent_id:
            return f"another process named {self._agent_id} holds the lease; this one waits for its end"
        known = self._identity.agents_of(self._identity.role)
        if holder and known and holder not in known:
            return f"{holder} holds the lease, and has no keys here: does another fleet use the same Redis?"
        return ""

    def ready(self, ready: bool, why_not: str) -> tuple[bool, str]:
        """What the role says of its readiness, and what keeps it from being so."""
        if self.shut_out:
            return False, self.shut_out
        if ready:
            return True, why_not
        return False, "; ".join([why_not, *self.obstacles().values()])

    def look(self, mono: float) -> None:
        """Log what has been in the way for a moment, now and then.

        Args:
            mono: monotonic seconds.
        """
        self._greet_anew(mono)
        found = self.obstacles()
        for hub in [hub for hub in self._since if hub not in found]:
            del self._since[hub]
            self._remind_at.pop(hub, None)
        if found.get(SECTION) != self._told_of_section:  # another reason is news; hubs may have several in turn
            self._remind_at.pop(SECTION, None)
        for hub, why in found.items():
            since = self._since.setdefault(hub, mono)
            if mono - since >= NOTICE_S and mono >= self._remind_at.get(hub, 0.0):
                self._remind_at[hub] = mono + REMIND_S
                self._tell(hub, why, for_s=round(mono - since, 1))

    def _tell(self, hub: str, why: str, *, for_s: float) -> None:
        if hub == SECTION:
            self._told_of_section = why
            self._log.warning("section_unreadable", why=why, for_s=for_s)
        elif hub != self._agent_id:
            self._log.warning("no_session", peer=hub, why=why, for_s=for_s)
        else:
            self._log.warning("shut_out" if self.shut_out else "no_lease", why=why, for_s=for_s)

    def _greet_anew(self, mono: float) -> None:
        for hub, spoke in self._spokes.items():
            if spoke.phase is not Phase.GREETING or spoke.obstacle or spoke.shut:
                self._greeting.pop(hub, None)
            elif mono - self._greeting.setdefault(hub, mono) >= GREETING_S:
                del self._greeting[hub]
                self._retry[hub]()
