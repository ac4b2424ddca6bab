"""The requests that are not submissions: what is asked, and what an answer means. Shared by both clients; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypedDict

import orjson

from a2a_zmq.client.entries import Asked
from a2a_zmq.client.submission import InvalidTask, checked_task_id, is_count, is_number
from a2a_zmq.tasks import TRANSITIONS, Record

# Ids in one message of a bulk request.
MAX_IDS = 512


class TaskPage(NamedTuple):
    """Some tasks of a list: records without payload and result, and how many tasks match in all.

    ``since`` is "" unless ``total`` counts only what ended since then (ISO 8601), when the coordinator was started; the
    list may have more, from before. ``partial``: not every task was looked at, so more may match.
    """

    tasks: list[Record]
    total: int
    since: str = ""
    partial: bool = False


class TaskFilter(TypedDict, total=False):
    """Which tasks a list is to have, besides their status and type.

    Attributes:
        distributor, worker: where they are, or ended.
        owner: identity of the client that submitted them.
        text: in their id, type, error or question; case does not count.
        older_s, newer_s: submitted at least, or at most, so many seconds ago.
        newest: of unfinished tasks the newest, not the oldest.
    """

    distributor: str
    worker: str
    owner: str
    text: str
    older_s: float
    newer_s: float
    newest: bool


class HistoryEvent(NamedTuple):
    """One line of the audit history; ``time`` is ISO 8601 in UTC, ``task_id`` is "" if it is about no task."""

    time: str
    task_id: str
    name: str
    detail: dict[str, Any]


class Ask(NamedTuple):
    """A request: its action, its payload, and whether doing it twice does no harm."""

    action: str
    payload: dict[str, Any]
    repeatable: bool = True


def get(task_id: str) -> Ask:
    return Ask("get_task", {"task_id": checked_task_id(task_id)})


def explain(task_id: str) -> Ask:
    return Ask("explain", {"task_id": checked_task_id(task_id)})


def status(*, load: bool) -> Ask:
    return Ask("fleet_status", {"load": True} if load else {})


def tasks(
    status_: str | None, task_type: str | None, limit: int, *, dead: bool, wanted: TaskFilter | None = None
) -> Ask:
    payload: dict[str, Any] = {"limit": _checked_limit(limit), **(wanted or {})}
    for name in ("older_s", "newer_s"):
        if name in payload and not (is_number(payload[name]) and payload[name] >= 0):
            raise InvalidTask(f"{name} must be a number of seconds, not {payload[name]!r:.60}")
    if status_ is not None:
        if status_ not in TRANSITIONS:
            raise InvalidTask(f"status must be one of {', '.join(TRANSITIONS)}, not {status_!r}")
        payload["status"] = status_
    if task_type is not None:
        payload["task_type"] = task_type
    if dead:
        payload["dead"] = True
    return Ask("list_tasks", payload)


def _checked_limit(limit: int) -> int:
    """
    Raises:
        RequestRefused: the coordinator would take its default instead, as if nothing had been asked for.
    """
    if not is_count(limit):
        raise InvalidTask(f"limit must be a whole number, at least 1, not {limit!r:.60}")
    return limit


def history(task_id: str | None, limit: int) -> Ask:
    payload: dict[str, Any] = {"limit": _checked_limit(limit)}
    if task_id is not None:
        payload["task_id"] = checked_task_id(task_id)
    return Ask("history", payload)


def cancel(task_ids: Sequence[str]) -> Iterator[Ask]:
    for chunk in _chunks(task_ids):
        yield Ask("cancel_tasks", {"task_ids": chunk})


class _Unset:
    """No value was given; None is one."""


UNSET: Final = _Unset()


def resume(task_id: str, value: Any, answers: Mapping[str, Any] | None, asked: Asked | None) -> Ask:
    """An answer to what a task asks.

    Args:
        value: for its only question.
        answers: value by question's id.
        asked: what it asks, as far as that is known here. It makes sure that this answer is taken for no other
            question, however often and late it arrives.
    """
    payload: dict[str, Any] = {"task_id": checked_task_id(task_id)}
    if (answers is None) == (value is UNSET):
        raise InvalidTask("give a value, or answers (value by the question's id)")
    if answers is not None:
        payload["answers"] = dict(answers)
    elif asked is not None and len(asked.interrupts) == 1:
        payload["answers"] = {str(asked.interrupts[0].get("id")): value}
    else:
        payload["value"] = value
    if asked is not None:
        payload["attempt"] = asked.attempt
    try:
        orjson.dumps(payload)
    except TypeError as error:
        raise InvalidTask(f"the answer cannot be written as JSON: {error}") from error
    return Ask("resume_task", payload)


def retry(task_ids: Sequence[str]) -> Iterator[Ask]:
    for chunk in _chunks(task_ids):
        yield Ask("retry_tasks", {"task_ids": chunk}, repeatable=False)


def drain(agent_id: str) -> Ask:
    return Ask("drain_agent", {"agent_id": agent_id})


def failover(distributor_id: str) -> Ask:
    return Ask("failover", {"agent_id": distributor_id})


def audit(*, repair: bool) -> Ask:
    return Ask("audit", {"repair": repair})


def _chunks(task_ids: Sequence[str]) -> Iterator[list[str]]:
    ids = [checked_task_id(task_id) for task_id in task_ids]
    for start in range(0, len(ids), MAX_IDS):
        yield ids[start : start + MAX_IDS]


def record_of(answer: dict[str, Any]) -> Record | None:
    task = answer.get("task")
    return task if isinstance(task, dict) else None


def page_of(answer: dict[str, Any]) -> TaskPage:
    found = list(answer.get("tasks") or ())
    total, since = int(answer.get("total", len(found))), str(answer.get("since") or "")
    return TaskPage(found, total, since, answer.get("partial") is True)


def events_of(answer: dict[str, Any]) -> list[HistoryEvent]:
    return [
        HistoryEvent(str(row[0]), str(row[1] or ""), str(row[2]), row[3] or {}) for row in answer.get("events") or ()
    ]


def merge_lists(into: dict[str, list[Any]], answer: dict[str, Any]) -> None:
    """Add up the lists of a bulk request's answers (``cancelled``, ``unknown`` …)."""
    for name, value in answer.items():
        if isinstance(value, list):
            into.setdefault(name, []).extend(value)


def without_action(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "action"}
