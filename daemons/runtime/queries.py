"""Performs the reads that cores ask for (:class:`daemons.runtime.contract.Query`)."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import Any, Final

from a2a_zmq.errors import StateError
from a2a_zmq.interfaces import Section, StateStore, Wanted
from a2a_zmq.tasks import COMPLETED, attempt_of, read_record
from daemons.runtime import seizing
from daemons.runtime.contract import Query, QueryAnswer

# Unreadable records and failed queries whose like is not told of again, at most.
TOLD_MAX: Final = 1_000


class Answers:
    """Answers queries, whatever is stored: who asked hears that it cannot be read, and the log does once."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._told: set[str] = set()

    async def answer(self, store: StateStore, query: Query, leases: seizing.Borrower | None) -> QueryAnswer:
        """
        Raises:
            StateError: the store could not be read.
        """
        unreadable: set[str] = set()
        try:
            value = await answer_query(store, query, leases, unreadable)
        except StateError:
            raise
        except Exception as error:
            # One entry that nobody foresaw must not end an owner each time that it is asked for.
            why = f"what is stored cannot be read: {type(error).__name__}: {error}"
            about = query.args.get("task_id") or ""
            if self._first(f"{query.op} {about} {why}"):
                self._log.exception("query_failed", op=query.op, task_id=about)
            return QueryAnswer(query.tag, error=f"task {about}: {why}" if about else why)
        if fresh := [each for each in sorted(unreadable) if self._first(each)]:
            self._log.error("unreadable_records", tasks=fresh)
        return QueryAnswer(query.tag, value, unreadable=frozenset(unreadable))

    def _first(self, text: str) -> bool:
        if text in self._told:
            return False
        if len(self._told) >= TOLD_MAX:
            self._told.clear()
        self._told.add(text)
        return True


def _age(record: bytes) -> tuple[int, str]:
    """Orders records of one task: it failed at one distributor, was retried, and ended at another. What cannot be read
    is the oldest."""
    found = read_record(record)
    return (attempt_of(found), str(found.get("completed_at") or "")) if found is not None else (-1, "")


def _readable(records: dict[str, bytes], unreadable: set[str]) -> dict[str, bytes]:
    """Those of these records that can be read; the ids of the others are added to ``unreadable``."""
    kept: dict[str, bytes] = {}
    for task_id, record in records.items():
        if _is_of(task_id, record):
            kept[task_id] = record
        else:
            unreadable.add(task_id)
    return kept


def _is_of(task_id: str, record: bytes) -> bool:
    found = read_record(record)
    return found is not None and found.get("task_id") == task_id


async def _ended(
    store: StateStore, *, distributor_ids: list[str], wanted: Wanted, limit: int, dead: bool
) -> tuple[list[bytes], dict[str, bytes]]:
    """The newest records of ended tasks (``dead``: dead letters), and what the results say of those by now."""
    read = store.newest_letters if dead else store.newest_results
    found = await asyncio.gather(*(read(each, wanted, limit) for each in distributor_ids))
    records: dict[str, bytes] = {}
    for record in chain.from_iterable(found):
        task_id = (read_record(record) or {}).get("task_id")
        if task_id is not None:
            records[task_id] = max(records[task_id], record, key=_age) if task_id in records else record
    newest = sorted(records, key=lambda task_id: _age(records[task_id])[1], reverse=True)[:limit]
    now: dict[str, bytes] = {}
    # What failed may have been retried since: an older record must not hide what became of it.
    completed = all((read_record(records[task_id]) or {}).get("status") == COMPLETED for task_id in newest)
    if newest and (dead or not completed):
        args = {"distributor_ids": distributor_ids, "task_ids": newest}
        now = await answer_query(store, Query("", "results", args))
    return [records[task_id] for task_id in newest], now


async def _explain(
    store: StateStore, *, distributor_ids: list[str], task_id: str, limit: int, owners: list[str]
) -> dict[str, Any]:
    """All that the store knows of one task: ``tasks``, ``results`` and ``letters`` (place → record), ``ended`` (the
    newest of the last two), ``events``, the ``leases`` of the owners, and where records are ``unreadable``.
    """
    places: dict[str, Any] = {}
    unreadable: list[str] = []
    for name, read in (("tasks", store.tasks), ("results", store.results), ("letters", store.letters)):
        found = await asyncio.gather(*(read(each, [task_id]) for each in distributor_ids))
        there = {
            place: records[task_id] for place, records in zip(distributor_ids, found, strict=True) if task_id in records
        }
        places[name] = {place: record for place, record in there.items() if _is_of(task_id, record)}
        unreadable += (f"{name} of {place or 'the inbox'}" for place in there if place not in places[name])
    ended = [*places["letters"].values(), *places["results"].values()]
    history = {"distributor_ids": distributor_ids, "limit": limit, "task_id": task_id}
    return {
        **places,
        "ended": max(ended, key=_age) if ended else None,
        "events": await answer_query(store, Query("", "history", history)),
        "leases": {each: await store.lease(each) for each in owners},
        "unreadable": unreadable,
    }


async def answer_query(
    store: StateStore,
    query: Query,
    leases: seizing.Borrower | None = None,
    unreadable: set[str] | None = None,
) -> Any:
    """The value for a QueryAnswer.

    Args:
        leases: by which the sections of others are taken, for those that ask for it.
        unreadable: gets the ids of results that are left out as they cannot be read.

    Raises:
        StateError: the store could not be read.
    """
    args = query.args
    bad = unreadable if unreadable is not None else set()
    if query.op in ("results", "tasks"):
        read = store.results if query.op == "results" else store.tasks
        found = await asyncio.gather(*(read(each, args["task_ids"]) for each in args["distributor_ids"]))
        merged: dict[str, bytes] = {}
        for part in found:
            for each, record in part.items():
                merged[each] = max(merged[each], record, key=_age) if each in merged else record
        if query.op == "results":  # live ones are for the audit to judge
            merged = _readable(merged, bad)
        missing = [each for each in args["task_ids"] if each not in merged] if args.get("letters") else []
        if missing:
            for part in await asyncio.gather(*(store.letters(each, missing) for each in args["distributor_ids"])):
                merged |= _readable(part, bad)
            bad -= merged.keys()
        return merged
    if query.op == "ended":
        return await _ended(store, **args)
    if query.op == "count_letters":
        return sum(await asyncio.gather(*(store.count_letters(each) for each in args["distributor_ids"])))
    if query.op == "explain":
        return await _explain(store, **args)
    if query.op == "load":
        return await store.load(args["section"])
    if query.op == "history":
        limit, task_id = args["limit"], args.get("task_id")
        found_events = await asyncio.gather(*(store.history(each, limit, task_id) for each in args["distributor_ids"]))
        events = [event for part in found_events for event in part]
        # Each event is a JSON array that begins with its ISO time, so the text sorts by time.
        events.sort(reverse=True)
        return events[:limit]
    if query.op == "streams":
        return await store.streams(args["wanted"])
    if query.op == "register":
        await store.register_distributor(args["distributor_id"])
        return await store.load(Section(args["distributor_id"], "coordinator"))
    if query.op == "page":
        return await store.page(args["distributor_id"], args["cursor"])
    if query.op == "survey":
        return await store.survey(), await store.distributors()
    if query.op == "lease":
        return await store.lease(args["distributor_id"])
    if query.op == "seize" and leases is not None:
        return await seizing.seize(store, leases, **args)
    if query.op == "evict" and leases is not None:
        return await seizing.evict(store, leases, **args)
    if query.op == "document":
        return await store.document(args["distributor_id"])
    raise ValueError(f"unknown query {query.op!r}")
