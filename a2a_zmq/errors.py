"""Every error that the library raises on purpose, in one tree.

::

    A2AError
    ├── ConfigError              a setting, file or key is wrong: our caller's fault, names what and where
    ├── ProtocolError            a frame or message from a peer is not acceptable
    │   ├── MalformedMessage     not the strict JSON form
    │   └── Refused              authenticated, but not allowed or not consistent (carries ``reason``)
    ├── IllegalTransition        a task was asked to make a move its status does not have
    ├── StateError               the shared state could not be read or written
    │   ├── StoreUnavailable     Redis is unreachable, loading or out of memory: try again later
    │   ├── VersionConflict      somebody else wrote the section since it was read
    │   ├── Fenced               a higher fence exists: this writer is no longer the owner
    │   ├── StateLost            the section is older than what this writer wrote itself (Redis was wiped or went back)
    │   ├── StaleCheckpointWriter  a later owner has the graph's thread: this run must stop
    │   └── TypeNotAllowed       a checkpoint has, or is to have, a type that was not allowed
    ├── Busy                     a bound is reached: try again after ``retry_after_s``
    └── FleetError               what a client sees
        ├── FleetUnavailable     no coordinator answered in time
        │   └── KeyRefused       it is there and does not let us in: waiting does not help
        ├── RequestRefused       the coordinator refused the request (``code``, ``message``)
        ├── TaskFailed           the task ended failed (``task_id``, ``error``, ``kind``)
        ├── TaskCancelled        the task was cancelled
        ├── TaskWaiting          the task asks something (``interrupts``) and goes on when it is answered
        └── TaskTimeout          the result did not arrive within the caller's timeout
"""

from __future__ import annotations

from typing import Any


class A2AError(Exception):
    """Root of the tree."""


class ConfigError(A2AError):
    """A setting is wrong; the text is one line that names the setting and where it was read."""


class KeysMissing(ConfigError):
    """There are no keys yet, of the fleet or of the coordinator; whoever starts these daemons makes them."""


class KeysRevoked(KeysMissing):
    """The coordinator's keys were taken out on purpose: waiting for them is in vain."""


class ProtocolError(A2AError):
    """A peer sent something that is not acceptable."""


class MalformedMessage(ProtocolError):
    """The frame is not the strict form of the protocol's JSON."""


class Refused(ProtocolError):
    """An authenticated message was refused.

    Attributes:
        reason: short machine-readable reason, one of the labels of ``a2a_signature_failures_total``
            or ``a2a_routing_errors_total``.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class IllegalTransition(A2AError):
    """A task was asked to make a move that its status does not have; nothing was changed."""

    def __init__(self, task_id: str, old: str, new: str) -> None:
        super().__init__(f"task {task_id!r} cannot go from {old} to {new}")
        self.task_id = task_id
        self.old = old
        self.new = new


class StateError(A2AError):
    """The shared state could not be read or written."""


class StoreUnavailable(StateError):
    """Redis cannot serve us now (unreachable, loading, read-only, out of memory).

    Attributes:
        reason: ``connection``, ``timeout``, ``loading``, ``readonly``, ``oom``, ``misconf``, ``noauth``.
        fatal: True where a start need not wait for it (``noauth``): only a change of settings, or of Redis', helps.
    """

    def __init__(self, reason: str, detail: str = "", *, fatal: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.fatal = fatal


class VersionConflict(StateError):
    """The section's version moved between our read and our write."""


class Fenced(StateError):
    """A higher fence (or another epoch) is recorded: this writer must stop acting.

    Attributes:
        ours: fence of the refused write.
        recorded: fence found in the section.
    """

    def __init__(self, ours: int, recorded: int) -> None:
        super().__init__(f"fence {ours} is behind {recorded}")
        self.ours = ours
        self.recorded = recorded


class StateLost(StateError):
    """The section is older than what this process wrote or read itself: Redis was wiped, or went back to an older copy.

    Nothing was written. Stop writing, take the lease again with a fence above ours, merge, go on.

    Attributes:
        section: readable name of the section.
        known_version, found_version: what we knew, and what is there now.
    """

    def __init__(self, section: str, known_version: int, found_version: int, detail: str = "") -> None:
        text = f"section {section} went back from version {known_version} to {found_version}"
        super().__init__(f"{text} ({detail})" if detail else text)
        self.section = section
        self.known_version = known_version
        self.found_version = found_version


class StaleCheckpointWriter(StateError):
    """A graph's thread belongs to a later owner, or to one at all where the caller has no fence; nothing was written.

    Attributes:
        thread_id: which thread.
        ours: the caller's fence, empty if it has none.
        recorded: the highest one seen for the thread.
    """

    def __init__(self, thread_id: str, ours: tuple[int, ...], recorded: tuple[int, ...]) -> None:
        behind = f"fence {ours} is behind {recorded}" if ours else f"no fence was given, the owner's is {recorded}"
        super().__init__(f"thread {thread_id!r}: {behind}")
        self.thread_id = thread_id
        self.ours = ours
        self.recorded = recorded


class TypeNotAllowed(StateError):
    """A checkpoint has, or is to have, a value of a type that would not come back as it was: it is not read or stored.

    Attributes:
        types: "module.Name" of each.
    """

    def __init__(self, what: str, types: tuple[str, ...]) -> None:
        super().__init__(f"{what}: {', '.join(types)}")
        self.types = types


class Busy(A2AError):
    """A bound is reached and nothing was taken; try again after ``retry_after_s`` seconds."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        super().__init__(f"{what} is full, retry after {retry_after_s:.2f} s")
        self.what = what
        self.retry_after_s = retry_after_s


class ModelBusy(Busy):
    """A call to a chat model was not made: its provider's budget, or the provider itself, has no room for it in time.

    Attributes:
        provider: name in the settings.
        missing: ``requests``, ``tokens``, ``concurrency``, or ``paused`` (the provider asked for less).
    """

    def __init__(self, provider: str, missing: str, retry_after_s: float) -> None:
        super().__init__(f"the budget of provider {provider!r} ({missing})", retry_after_s)
        self.provider = provider
        self.missing = missing


class FleetError(A2AError):
    """Root of what a client of the fleet sees.

    Attributes:
        accepted: ids of tasks that were submitted with what was refused, and accepted all the same.
    """

    accepted: tuple[str, ...] = ()


class FleetUnavailable(FleetError):
    """No coordinator answered within the time that the caller gave."""


class KeyRefused(FleetUnavailable):
    """The coordinator is there and does not let us in, or we do not take it for the fleet's: keys have to be mended."""


class RequestRefused(FleetError):
    """The coordinator refused the request.

    Attributes:
        code: for example ``UNKNOWN_TASK_TYPE``, ``PAYLOAD_TOO_LARGE``, ``FORBIDDEN``, ``BUSY``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class TaskFailed(FleetError):
    """The task ended ``failed`` (or ``abandoned``).

    Attributes:
        task_id: which task.
        error: the last attempt's error, one line.
        kind: ``raised``, ``timeout``, ``exited``, ``killed``, ``unserializable``, ``invalid_input``,
            ``unknown_task_type``, ``worker_lost``, ``type_not_allowed`` (in a graph's state), ``checkpoint_gone`` (an
            answer came too late), ``given_up`` (by a retry policy).
    """

    def __init__(self, task_id: str, error: str, kind: str = "raised") -> None:
        super().__init__(f"task {task_id} failed ({kind}): {error}")
        self.task_id = task_id
        self.error = error
        self.kind = kind


class TaskCancelled(FleetError):
    """The task was cancelled before it completed."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} was cancelled")
        self.task_id = task_id


class TaskWaiting(FleetError):
    """The task's graph asked something. The task holds no worker meanwhile, and goes on when it is resumed.

    Attributes:
        task_id: which task.
        interrupts: its open questions, each with ``id`` and ``value`` (what was given to ``interrupt()``).
        attempt: the attempt that asked.
    """

    def __init__(self, task_id: str, interrupts: list[dict[str, Any]], attempt: int = 0) -> None:
        what = "an answer" if len(interrupts) == 1 else f"answers to {len(interrupts)} questions"
        super().__init__(f"task {task_id} waits for {what}")
        self.task_id = task_id
        self.interrupts = interrupts
        self.attempt = attempt


class TaskTimeout(FleetError):
    """The result did not arrive within the caller's timeout; the task itself goes on."""

    def __init__(self, task_id: str, timeout_s: float) -> None:
        super().__init__(f"no result of task {task_id} within {round(timeout_s, 2):g} s; it is still with the fleet")
        self.task_id = task_id
        self.timeout_s = timeout_s
