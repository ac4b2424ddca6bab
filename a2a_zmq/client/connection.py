"""The client's shell: one core, one spoke, one socket, on the event loop that runs it.

It decides nothing. Everything here is called on the loop's own thread; what a turn brought is handed to sinks and
callbacks at the turn's end.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable

from a2a_zmq.client.core import ClientCore
from a2a_zmq.client.entries import Call, Entry
from a2a_zmq.client.handing import hand_out
from a2a_zmq.client.lockouts import KEYS_DO_NOT_FIT
from a2a_zmq.client.sockets import Frames, Link, Opener
from a2a_zmq.client.streams import Stream
from a2a_zmq.clock import Now, timer_delay_s
from a2a_zmq.errors import Busy, ConfigError, FleetUnavailable, KeysMissing, MalformedMessage, Refused, RequestRefused

# With several addresses: how long one of them has to bring a session about before the next is tried.
TRY_ADDRESS_S = 2.0
# … and how long after an attempt that failed at once.
NEXT_ADDRESS_S = 0.2
# How long a coordinator that stands by is kept, so that nobody goes round and round while none leads.
STANDBY_PAUSE_S = 0.15
# What the transport's reasons mean to a user, after the address.
CONNECT_TROUBLE = {
    "unreachable": "nothing answers",
    "auth": "the coordinator refuses our key",
    "protocol": "what answers there is no coordinator",
    "handshake": "it hangs up: it has other keys than we know of, or is no coordinator",
    "silent": "it does not answer",
}
# A connection that has brought no session about after this long is made anew. A coordinator says nothing to a key that
# it does not let in (any more), except when the connection is made.
SESSION_WITHIN_S = 3.0
# A frame that the socket would not take (high-water mark) is tried again this soon.
FULL_RETRY_S = 0.005
# How long close() waits for the good-bye to leave the process.
LINGER_S = 0.02


def read_clock() -> Now:
    return Now(time.monotonic(), time.time())


class Connection:
    """Build it inside the event loop that will run it.

    Args:
        core: the decisions.
        addresses: coordinators, tried in turn until one that leads answers.
        opener: makes spoke and socket for an address; closed with the connection.

    Attributes:
        address: the one whose turn it is.
        lost_at: monotonic time since which there is no session with one that leads; None while there is one.
    """

    def __init__(
        self, core: ClientCore, addresses: list[str], opener: Opener, clock: Callable[[], Now] = read_clock
    ) -> None:
        self.core = core
        self.addresses = addresses
        self.address = addresses[0]
        self.lost_at: float | None = clock().mono
        self._opener = opener
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._timer: asyncio.TimerHandle | None = None
        self._turn_wanted = False
        self._closed = False
        self._settled: list[Callable[[], None]] = []
        self._unsent: list[bytes] = []
        self._tried = 0
        self._keyless = ""  # why no other address can be tried
        self._try_until = math.inf
        self._connected = False
        self._session_until = math.inf
        self._switch_at = math.inf
        core.others = len(addresses) > 1
        self._link = self._open(clock())

    # ------------------------------------------------------------ for callers

    def submit(self, entries: list[Entry]) -> None:
        """Queue tasks; they leave with the loop's next turn, together with all others queued until then."""
        now = self._clock()
        for entry in entries:
            self.core.submit(entry, now)
        self.wake()

    def attach(self, entry: Entry) -> None:
        self.core.attach(entry, self._clock())
        self.wake()

    def request(self, call: Call) -> None:
        self.core.request(call, self._clock())
        self.wake()

    def stream(self, stream: Stream) -> None:
        """Read a task's stream from now on."""
        self.core.streams.add(stream)
        self.wake()

    def took(self, stream: Stream, size: int) -> None:
        """Some of it was taken."""
        if self.core.streams.took(stream, size):
            self.wake()

    def close_stream(self, stream: Stream) -> None:
        """Nobody reads it any more."""
        self.core.streams.close(stream)
        self.wake()

    def check_reach(self, unavailable_after_s: float) -> None:
        """Whether it makes sense to go on waiting.

        Raises:
            FleetUnavailable: there has been no session for so long, or keys do not fit.
        """
        lockout = self.core.lockout(self._clock())
        if lockout is not None:
            raise lockout
        lost_s = self.out_of_reach_s()
        if lost_s > unavailable_after_s:
            because = f" ({self.core.trouble})" if self.core.trouble else ""
            raise FleetUnavailable(f"no coordinator was reachable for {lost_s:.0f} s{because}; the handle stays valid")

    def out_of_reach_s(self) -> float:
        """Seconds since the last session ended (since the start, if there was none); 0 while there is one."""
        lost_at = self.lost_at
        return 0.0 if lost_at is None else self._clock().mono - lost_at

    def at_turn_end(self, settle: Callable[[], None]) -> None:
        """Call this once when all of this turn's results are handed out."""
        self._settled.append(settle)

    def wake(self) -> None:
        if not self._turn_wanted and not self._closed:
            self._loop.call_soon(self.turn)
            self._turn_wanted = True

    def check_home(self) -> None:
        """Whether the caller is where the connection was made; anywhere else nothing would ever be answered.

        Raises:
            FleetUnavailable: it is on another event loop, or in another process.
        """
        if os.getpid() != self._pid:
            raise FleetUnavailable("this client was made before a fork; make a new one in the child process")
        if asyncio.get_running_loop() is not self._loop:
            raise FleetUnavailable("this client belongs to another event loop; make one for each loop")

    # ------------------------------------------------------------ the socket's reports

    def on_frames(self, batch: Frames) -> None:
        now = self._clock()
        receive = self._link.port.receive
        for route, frames, user_id in batch:
            receive(route, frames, now, user_id)
        self.turn()

    def on_connected(self) -> None:
        self._connected = True
        self._session_until = math.inf
        self._link.port.connected(self._clock())
        self.wake()

    def on_disconnected(self, route: bytes = b"") -> None:
        self._unsent.clear()
        self._connected = False
        self._link.port.disconnected(route, self._clock())
        self.wake()

    def on_failed(self, reason: str) -> None:
        """An attempt to connect failed; the socket tries again, we remember why for whoever gives up waiting."""
        self.core.trouble = self._keyless or f"{self.address}: {CONNECT_TROUBLE.get(reason, reason)}"
        now = self._clock()
        if reason in KEYS_DO_NOT_FIT:
            self.core.lockouts.refused(now.mono + KEYS_DO_NOT_FIT[reason])
            self.wake()
        else:
            self.core.lockouts.fits()
        if len(self.addresses) > 1 and not self.core.peer:
            self._try_until = min(self._try_until, now.mono + NEXT_ADDRESS_S)
            self.wake()

    def on_writable(self) -> None:
        self.wake()

    # ------------------------------------------------------------ the turn

    def turn(self) -> None:
        self._turn_wanted = False
        if self._closed:
            return
        now = self._clock()
        core, port = self.core, self._link.port
        port.tick(now)
        if port.events:
            events, port.events = port.events, []
            for event in events:
                core.handle(event, now)
            # Nothing is durable at a client: what it has seen, it has taken.
            port.acknowledge(port.marks(), now)
        core.tick(now)
        self._look_at_session(now)
        self._hand_out()
        self._send(now)
        self._transmit()
        self._arm(now)

    def _hand_out(self) -> None:
        hand_out(self.core)
        if self._settled:
            settled, self._settled = self._settled, []
            for settle in settled:
                settle()

    def _send(self, now: Now) -> None:
        core, port = self.core, self._link.port
        if not core.peer:
            return
        for payload, request_id, type_ in core.flush(now, port.room(core.peer)):
            try:
                port.send(core.peer, type_, payload, now, request_id=request_id)
            except MalformedMessage as error:
                core.unsendable(request_id, RequestRefused("PAYLOAD_TOO_LARGE", str(error)))
                self.wake()
            except (Busy, Refused):
                core.unsent(request_id, now)

    def _transmit(self) -> None:
        link = self._link
        if not link.port.outgoing:
            return
        outgoing, link.port.outgoing = link.port.outgoing, []
        self._unsent.extend(frame for _, frame in outgoing)
        self._push()

    def _push(self) -> None:
        """Hand frames to the socket, in order, until it is full."""
        link = self._link
        for done, frame in enumerate(self._unsent):
            outcome = link.socket.send(b"", frame)
            if outcome == "full":
                del self._unsent[:done]
                return
            if outcome != "ok":
                link.port.undeliverable(b"", frame, outcome, self._clock())
        self._unsent.clear()

    # ------------------------------------------------------------ sessions and addresses

    def _look_at_session(self, now: Now) -> None:
        if self.core.peer and not self.core.elsewhere:
            if not self.core.wants_other:
                self.lost_at = None
            elif self.lost_at is None:  # the only one that there is stands by
                self.lost_at = now.mono
            self._try_until = self._switch_at = self._session_until = math.inf
            return
        if self.lost_at is None:
            self.lost_at = now.mono
        if self.core.peer:
            self._try_until = math.inf
            if self._switch_at == math.inf:
                self._switch_at = now.mono + STANDBY_PAUSE_S
            elif now.mono >= self._switch_at:
                self._next_address(now)
            return
        self._switch_at = math.inf
        if len(self.addresses) == 1:
            self._renew_connection(now)
            return
        if self._try_until == math.inf:
            self._try_until = now.mono + TRY_ADDRESS_S
        if self.core.lockouts.turned_away:
            self._try_until = min(self._try_until, now.mono + NEXT_ADDRESS_S)
        if now.mono >= self._try_until:
            self._next_address(now)

    def _renew_connection(self, now: Now) -> None:
        if not self._connected:
            self._session_until = math.inf
        elif self._session_until == math.inf:
            self._session_until = now.mono + SESSION_WITHIN_S
        elif now.mono >= self._session_until:
            self.on_disconnected()
            self._link.socket.reconnect()

    def _next_address(self, now: Now) -> None:
        self._switch_at = math.inf
        self._tried += 1
        address = self.address
        try:
            link = self._open(now)
        except OSError as error:
            self.address = address
            self.core.trouble = f"no new connection can be made: {error}"
            self._try_until = now.mono + NEXT_ADDRESS_S
            return
        except ConfigError as error:
            # Keys may come before its turn comes again; whoever waits is told once there is no address left to try.
            self.core.lockouts.unknown(self.address, now.mono + KEYS_DO_NOT_FIT["auth"])
            self.address = address
            self.core.trouble = str(error)
            if self.core.lockouts.everywhere():
                self._keyless = str(error)
            else:
                self._try_until = now.mono + NEXT_ADDRESS_S
            return
        self._link.port.close(now)
        self._transmit()
        self._link.socket.close()
        self._unsent.clear()
        self._connected = False
        self.core.disconnected()
        self._keyless = ""
        self._link = link

    def _open(self, now: Now) -> Link:
        """To the address whose turn it is; one whose coordinator has left the fleet (no keys) is passed over.

        Raises:
            ConfigError: keys cannot be read; KeysMissing if there are none of any of these coordinators.
        """
        if len(self.addresses) > 1:
            self._try_until = now.mono + TRY_ADDRESS_S
        last = self._tried + len(self.addresses) - 1
        while True:
            self.address = self.addresses[self._tried % len(self.addresses)]
            try:
                link = self._opener.open(self.address, self)
            except KeysMissing:
                if self._tried == last:
                    raise
                self.core.lockouts.unknown(self.address, now.mono + KEYS_DO_NOT_FIT["auth"])
                self._tried += 1
            else:
                self.core.lockouts.at(self.addresses, self.address)
                return link

    # ------------------------------------------------------------ time and life

    def _arm(self, now: Now) -> None:
        if self._closed:
            return
        deadline = min(
            self._link.port.next_deadline(),
            self.core.next_deadline(),
            self._try_until,
            self._switch_at,
            self._session_until,
        )
        if self._unsent:
            self._push()
            if self._unsent:
                deadline = min(deadline, now.mono + FULL_RETRY_S)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline != math.inf:
            self._timer = self._loop.call_later(timer_delay_s(deadline - now.mono), self.turn)

    async def close(self) -> None:
        """Say good-bye, end everybody's waiting with FleetUnavailable, close the socket. Safe to call twice.

        Raises:
            FleetUnavailable: as :meth:`check_home`, while the connection's own loop may still run it.
        """
        if self._closed:
            return
        if self._loop.is_closed() and os.getpid() == self._pid:  # nobody is left who waits
            self._drop()
            return
        self.check_home()
        if self._timer is not None:
            self._timer.cancel()
        try:
            self.core.close("the client was closed")
            self._hand_out()
            self._link.port.close(self._clock())
            self._transmit()
            self._closed = True
            # ZMQ hands frames to its own thread, and the socket is closed without linger.
            await asyncio.sleep(LINGER_S)
        finally:
            self._drop()

    def _drop(self) -> None:
        self._closed = True
        self._link.socket.close()
        self._opener.close()
