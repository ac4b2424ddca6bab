"""What both clients share: how an entry is made from arguments, and the defaults of their waiting."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Required, TypedDict, cast

from a2a_zmq.client.entries import Entry, Sink
from a2a_zmq.client.environment import ClientSettings
from a2a_zmq.client.submission import (
    InvalidTask,
    TaskForm,
    checked_task_id,
    encode_payload,
    is_number,
    known_keys,
    known_options,
)
from a2a_zmq.client.tracing import API, MODULES, ClientTraces
from a2a_zmq.errors import ConfigError, FleetError
from a2a_zmq.ids import idempotent_task_id, make_id_factory

# A request that nobody has answered after this long fails with FleetUnavailable.
REQUEST_TIMEOUT_S = 30.0
# Waiting for a result ends with FleetUnavailable when no coordinator was reachable for this long: longer than a
# coordinator's replacement takes, and a restart of the host's supervisor as well.
UNAVAILABLE_AFTER_S = 60.0
# How often somebody who waits looks whether the fleet is still within reach.
REACH_CHECK_S = 1.0


class TaskOptions(TypedDict, total=False):
    """Options that every task of a bulk call gets; see ``submit`` for their meaning."""

    priority: int
    timeout_s: float | None
    max_attempts: int | None
    distributor: str | None
    labels: Mapping[str, str] | None


class TaskSpec(TaskOptions, total=False):
    """One task of a mixed bulk submission: the arguments of ``submit``."""

    task_type: Required[str]
    payload: Required[Mapping[str, Any]]
    idempotency_key: str | None
    task_id: str | None


REQUIRED = ("task_type", "payload")  # as above; while annotations are texts, Python does not know


class Handle(Protocol):
    """What is looked at of a handle of either client."""

    task_id: str

    @property
    def refused(self) -> bool: ...


def check_spec(spec: TaskSpec) -> None:
    """What is checked of one task of ``submit_tasks`` before it is sent; for who wants to know before the first one is.

    Raises:
        RequestRefused: an argument is wrong.
    """
    TaskForm(spec["task_type"], **_options(spec))
    _chosen_id("", spec.get("idempotency_key"), spec.get("task_id"))
    encode_payload(spec["payload"])


def _options(spec: TaskSpec) -> TaskOptions:
    return cast(TaskOptions, {name: value for name, value in spec.items() if name in TaskOptions.__annotations__})


def _chosen_id(identity: str, idempotency_key: str | None, task_id: str | None) -> str:
    """The id that the caller chose, by itself or by a key; "" if a fresh one is wanted.

    Raises:
        RequestRefused: it cannot be one.
    """
    if task_id is not None:
        if idempotency_key is not None:  # the key would do nothing, and the task run once for each id
            raise InvalidTask("give task_id or idempotency_key, not both: the key makes the id")
        return checked_task_id(task_id)
    if idempotency_key is None:
        return ""
    if not isinstance(idempotency_key, str) or not idempotency_key:
        raise InvalidTask("idempotency_key must be a text that is not empty")
    try:
        return idempotent_task_id(identity, idempotency_key)
    except UnicodeEncodeError:
        raise InvalidTask("idempotency_key has half of a surrogate pair, which is no text") from None


def bound_s(name: str, value: float) -> float:
    """How long a client waits for its fleet.

    Raises:
        ConfigError: it would wait for nothing.
    """
    if not is_number(value) or not value > 0:
        raise ConfigError(f"{name} must be a number of seconds above 0, not {value!r:.60}")
    return value


def end_of(timeout: float | None) -> float:
    """Monotonic time at which a caller's patience is over, inf if it never is.

    Raises:
        RequestRefused: it is no number.
    """
    if timeout is None:
        return math.inf
    if not is_number(timeout) or math.isnan(timeout):
        raise InvalidTask(f"timeout must be a number of seconds, or None, not {timeout!r:.60}")
    return time.monotonic() + timeout


def due(group: list[Entry], within_s: float) -> list[Entry]:
    """These are sent now; however long it took to make them, each has the full time to be accepted."""
    deadline = time.monotonic() + within_s
    for entry in group:
        entry.deadline = deadline
    return group


def with_accepted(error: FleetError, handles: Sequence[Handle]) -> FleetError:
    """The error of a bulk submission, with the ids that were accepted all the same.

    It is a copy: what refused a whole message is the error of every caller that had tasks in it.
    """
    own = type(error).__new__(type(error), *error.args)
    own.__dict__.update(error.__dict__)
    note_accepted(own, handles)
    return own


def raise_first(outcomes: Iterable[BaseException | None], handles: Sequence[Handle]) -> None:
    """Raise the first error of a bulk submission, if there is one."""
    for outcome in outcomes:
        if isinstance(outcome, FleetError):
            raise with_accepted(outcome, handles)
        if outcome is not None:
            raise outcome


def note_accepted(error: Exception, handles: Iterable[Handle]) -> None:
    """What ends a bulk submission early, and is no answer of the fleet, says of which tasks it has ``accepted``, too.

    Args:
        handles: of the tasks that were sent; each was accepted or refused.
    """
    accepted = tuple(handle.task_id for handle in handles if not handle.refused)
    with contextlib.suppress(AttributeError):  # an exception of the caller's that takes no further attributes
        error.accepted = accepted  # type: ignore[attr-defined]


class EntryMaker:
    """Makes entries; safe to use from several threads."""

    def __init__(self, settings: ClientSettings) -> None:
        """
        Raises:
            ConfigError: traces are wanted, and what they need is not installed.
        """
        self._identity = settings.client_id
        self.new_id = make_id_factory(os.urandom)
        self._traces = ClientTraces(settings.otlp_endpoint, settings.trace_sample_ratio, settings.client_id)

    def close(self) -> None:
        """Nothing more is made."""
        self._traces.close()

    def form(self, method: str, task_type: str, options: TaskOptions) -> TaskForm:
        """What the tasks of one call of this method have in common.

        Raises:
            TypeError: there is no such option.
            RequestRefused: an argument is wrong.
        """
        known_options(method, options)
        return TaskForm(task_type, **options)

    def one(
        self,
        task_type: str,
        payload: Mapping[str, Any],
        sink: Sink,
        *,
        deadline: float,
        idempotency_key: str | None,
        task_id: str | None,
        options: TaskOptions,
    ) -> Entry:
        """Entry of a single submission.

        Raises:
            RequestRefused: an argument is wrong.
        """
        form = self.form("submit", task_type, options)
        chosen = _chosen_id(self._identity, idempotency_key, task_id)
        if not chosen:
            return self.next(form, payload, sink, deadline=deadline)
        entry = Entry(chosen, form.body(chosen, encode_payload(payload)), sink, check=True, deadline=deadline)
        return self._traced(entry, form) if self._traces.reports or API in MODULES else entry

    def of(self, task: tuple[int, TaskSpec], sink: Sink) -> Entry:
        """Entry of one task of a mixed bulk submission, with its index there.

        Raises:
            TypeError: it has a key that it must not have, or lacks one.
            RequestRefused: an argument is wrong.
        """
        index, spec = task
        known_keys(index, spec, TaskSpec.__annotations__, REQUIRED)
        return self.one(
            spec["task_type"],
            spec["payload"],
            sink,
            deadline=math.inf,
            idempotency_key=spec.get("idempotency_key"),
            task_id=spec.get("task_id"),
            options=_options(spec),
        )

    def next(
        self, form: TaskForm, payload: Mapping[str, Any], sink: Sink, *, index: int = 0, deadline: float = math.inf
    ) -> Entry:
        """Entry of a fresh task, one of many of the same form."""
        task_id = self.new_id()
        entry = Entry(task_id, form.body(task_id, encode_payload(payload)), sink, deadline=deadline, index=index)
        # That is all that a task costs here that nobody traces.
        return self._traced(entry, form) if self._traces.reports or API in MODULES else entry

    def _traced(self, entry: Entry, form: TaskForm) -> Entry:
        submitted = self._traces.begin(form.task_type, entry.task_id)
        if submitted is not None:
            entry.submitted = submitted
            entry.body = form.traced(entry.task_id, entry.body, submitted.trace)
        return entry
