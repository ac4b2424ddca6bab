"""What a turn brought, handed to those who wait for it."""

from __future__ import annotations

from a2a_zmq.client.core import ClientCore
from a2a_zmq.client.tracing import failed


def hand_out(core: ClientCore) -> None:
    """Acceptances before questions before ends, as each task has them."""
    tasks, calls = core.tasks, core.calls
    if tasks.accepted:
        accepted, tasks.accepted = tasks.accepted, []
        for entry in accepted:
            if entry.submitted is not None:
                entry.submitted.ended()
            entry.sink.accepted(entry)
    if tasks.asked:
        asked, tasks.asked = tasks.asked, []
        for entry in asked:
            entry.sink.asked(entry)
    if tasks.finished:
        finished, tasks.finished = tasks.finished, []
        for entry in finished:
            if entry.submitted is not None:
                failed(entry.submitted, entry.outcome)
            entry.sink.finished(entry)
    core.streams.hand_out()
    if calls.answered:
        answered, calls.answered = calls.answered, []
        for call in answered:
            call.done(call)
