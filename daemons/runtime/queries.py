"""Performs the reads that cores ask for (:class:`daemons.runtime.contract.Query`)."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from a2a_zmq.interfaces import Section, StateStore
from daemons.runtime.contract import Query


def _age(record: bytes) -> tuple[int, str]:
    """Orders records of one task: it failed at one distributor, was retried, and ended at another."""
    found = orjson.loads(record)
    attempt = (found.get("metadata") or {}).get("attempt")
    return attempt if isinstance(attempt, int) else 0, str(found.get("completed_at"))


async def answer_query(store: StateStore, query: Query) -> Any:
    """The value for a QueryAnswer.

    Raises:
        StateError: the store could not be read.
    """
    args = query.args
    if query.op in ("results", "tasks"):
        read = store.results if query.op == "results" else store.tasks
        found = await asyncio.gather(*(read(each, args["task_ids"]) for each in args["distributor_ids"]))
        merged: dict[str, bytes] = {}
        for part in found:
            for each, record in part.items():
                merged[each] = max(merged[each], record, key=_age) if each in merged else record
        return merged
    if query.op == "load":
        return await store.load(args["section"])
    if query.op == "history":
        limit, task_id = args["limit"], args.get("task_id")
        found_events = await asyncio.gather(*(store.history(each, limit, task_id) for each in args["distributor_ids"]))
        events = [event for part in found_events for event in part]
        # Each event is a JSON array that begins with its ISO time, so the text sorts by time.
        events.sort(reverse=True)
        return events[:limit]
    if query.op == "register":
        await store.register_distributor(args["distributor_id"])
        return await store.load(Section(args["distributor_id"], "coordinator"))
    if query.op == "page":
        return await store.page(args["distributor_id"], args["cursor"])
    if query.op == "survey":
        return await store.survey(), await store.distributors()
    if query.op == "document":
        return await store.document(args["distributor_id"])
    raise ValueError(f"unknown query {query.op!r}")
