"""The in-process API: calls of the specification's ``CoordinatorAgent``."""

from __future__ import annotations

from collections.abc import Callable

from a2a_zmq.clock import Now
from a2a_zmq.ids import valid_agent_id
from daemons.coordinator.desk import Desk
from daemons.coordinator.submissions import Submissions
from daemons.coordinator.supervision import Supervision
from daemons.coordinator.sync import Sync
from daemons.runtime.calls import LocalAnswer, LocalCall


class LocalCalls:
    """Each is answered with a :class:`LocalAnswer`."""

    def __init__(self, desk: Desk, sync: Sync, submissions: Submissions, supervision: Supervision) -> None:
        self._desk = desk
        self._sync = sync
        self._submissions = submissions
        self._supervision = supervision
        self._calls: dict[str, Callable[[LocalCall, Now], None]] = {
            "assign_task_to_distributor": self._assign,
            "register_distributor": self._register,
            "status": self._status,
        }

    def call(self, call: LocalCall, now: Now) -> None:
        handler = self._calls.get(call.name)
        if handler is None:
            self._desk.log("error", "unknown_local_call", name=call.name)
            self._desk.out.append(LocalAnswer(call.call_id, None))
        else:
            handler(call, now)

    def _assign(self, call: LocalCall, now: Now) -> None:
        """Into the named distributor's section, also if it has never connected: it is registered first."""
        distributor_id = call.args.get("distributor_id")
        if valid_agent_id(distributor_id):
            self._sync.registered(str(distributor_id), lambda _, later: self._submissions.assign(call, later), now)
        else:
            self._submissions.assign(call, now)

    def _register(self, call: LocalCall, now: Now) -> None:
        if valid_agent_id(call.args.get("distributor_id")):
            self._sync.register(call, now)
        else:
            self._desk.out.append(LocalAnswer(call.call_id, False))

    def _status(self, call: LocalCall, now: Now) -> None:
        self._desk.out.append(LocalAnswer(call.call_id, self._supervision.fleet_status(now)))
