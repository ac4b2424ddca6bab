"""Runs a story: a text of commands, each followed by everything that it caused, in order.

A line that begins with ``> `` is a command; the lines below it are what the store, the clients and the distributors
saw. ``#`` begins a comment. The commands are the methods ``do_…`` of :class:`Story`. After a wanted change of
behaviour, write the stories
anew and read the difference: ``python -m tests.stories.coordinator.runner --rewrite``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from a2a_zmq.protocol.message import MessageType, Role
from daemons.runtime.contract import Send
from tests.unit.coordinator.fakes import Store, Told, task
from tests.unit.coordinator.harness import World

HERE = Path(__file__).parent
COMMAND = "> "


class StoryWorld(World):
    """Writes down what happens."""

    def __init__(self, saw: list[str], store: Store | None = None, **limits: Any) -> None:
        super().__init__(store, **limits)
        self._saw = saw

    def apply(self) -> None:
        batch = self._flying
        for write in batch.writes if batch is not None else ():
            place = write.section.distributor_id or "inbox"
            if write.put_tasks:
                self._saw.append(f"store: {place} + {' '.join(write.put_tasks)}")
            if write.drop_tasks:
                self._saw.append(f"store: {place} - {' '.join(write.drop_tasks)}")
            if write.results:
                self._saw.append(f"store: {place} records {' '.join(write.results)}")
        super().apply()

    def _deliver(self, effect: Send) -> None:
        peer = self.peers.get(effect.to)
        before = len(peer.told) if peer is not None else 0
        super()._deliver(effect)
        if peer is not None and len(peer.told) > before:
            self._saw.append(f"{effect.to} <- {shown(peer.told[-1])}")


def shown(told: Told) -> str:
    """A message in a few words."""
    payload = told.payload
    if told.type is MessageType.ERROR:
        return f"{told.action} refused: {payload['code']}"
    if told.action == "task_results":
        return "task_results " + " ".join(f"{each['task_id']}={each['status']}" for each in payload["results"])
    if told.action == "assign_tasks":
        return "assign_tasks " + " ".join(each["task_id"] for each in payload["tasks"])
    parts = []
    for name, value in payload.items():
        if name == "action" or value in ([], 0):
            continue
        if isinstance(value, list):
            parts.append(f"{name}={','.join(_named(each) for each in value)}")
        else:
            parts.append(f"{name}={_named(value) if isinstance(value, dict) else value}")
    return " ".join([told.action, *parts])


def _named(value: Any) -> str:
    if isinstance(value, dict):
        return ":".join(str(value[name]) for name in ("task_id", "status", "code") if name in value)
    if isinstance(value, list):
        return ":".join(map(str, value))
    return str(value)


class Story:
    """One story; the store outlives its coordinators."""

    def __init__(self) -> None:
        self.saw: list[str] = []
        self.store = Store()
        self.world = StoryWorld(self.saw, self.store)
        self.world.own()

    def run(self, text: str) -> str:
        """The story with what really happened."""
        out: list[str] = []
        lines = text.splitlines()
        for index, line in enumerate(lines):
            if line.startswith(COMMAND):
                out.append(line)
                self.saw.clear()
                self._command(line.removeprefix(COMMAND))
                out.extend(self.saw)
            elif not line or line.startswith("#"):
                out.append(line)
            else:
                assert index, "a story begins with a command"
        self.world.check()
        return "\n".join(out) + "\n"

    def _command(self, line: str) -> None:
        name, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        command: Callable[..., None] = getattr(self, f"do_{name.replace('-', '_')}")
        command(*plain, **options)

    def do_limits(self, **limits: str) -> None:
        """Begin anew with other limits."""
        self.world = StoryWorld(self.saw, self.store, **{name: int(value) for name, value in limits.items()})
        self.world.own()

    def do_client(self, name: str) -> None:
        self.world.client(name)

    def do_operator(self, name: str) -> None:
        self.world.client(name, Role.OPERATOR)

    def do_distributor(self, name: str, types: str = "noop", slots: str = "4", restarted: str = "no") -> None:
        self.world.distributor(name, types.replace(",", " "), int(slots), restarted=restarted == "yes")

    def do_workers(self, name: str, types: str = "") -> None:
        self.world.workers(name, types.replace(",", " "))

    def do_gone(self, name: str, reason: str = "disconnect") -> None:
        self.world.gone(name, reason)

    def do_submit(self, name: str, *task_ids: str, type: str = "noop", check: str = "no", **metadata: str) -> None:  # noqa: A002
        bulk = int(metadata.pop("bytes", "0"))
        tasks = [task(each, type, {"text": "x" * bulk} if bulk else {}, **metadata) for each in task_ids]
        payload = {"action": "submit_tasks", "tasks": tasks, "check": check == "yes"}
        self.world.say(name, MessageType.REQUEST, payload)

    def do_request(self, name: str, action: str, *task_ids: str) -> None:
        self.world.say(name, MessageType.REQUEST, {"action": action, "task_ids": list(task_ids)})

    def do_finish(self, name: str, *task_ids: str, status: str = "completed") -> None:
        """A distributor records results and reports them."""
        self.world.finish(name, *task_ids, status=status)

    def do_finish_unheard(self, name: str, *task_ids: str) -> None:
        """… and the report is lost."""
        self.world.finish(name, *task_ids, tell=False)

    def do_report_again(self, name: str, *task_ids: str) -> None:
        self.world.report(name, [self.store.results[name][task_id] for task_id in task_ids])

    def do_unknown(self, name: str, *task_ids: str) -> None:
        self.world.say(name, MessageType.EVENT, {"action": "task_unknown", "task_ids": list(task_ids)})

    def do_outbox(self, name: str, state: str) -> None:
        (self.world.busy.add if state == "full" else self.world.busy.discard)(name)

    def do_store(self, state: str) -> None:
        (self.world.store_goes if state == "away" else self.world.store_comes)()

    def do_wait(self, seconds: str) -> None:
        self.world.advance(float(seconds))

    def do_kill_coordinator(self) -> None:
        """The process is gone, with all that it remembered. Its successor has not the lease yet."""
        self.world = StoryWorld(self.saw, self.store)

    def do_lead(self) -> None:
        self.world.own()

    def do_drain(self) -> None:
        self.world.drain()
        if self.world.exit is not None:
            self.saw.append(f"exit {self.world.exit.status}")


def stories() -> list[Path]:
    return sorted(HERE.glob("*.txt"))


if __name__ == "__main__" and "--rewrite" in sys.argv:
    for path in stories():
        path.write_text(Story().run(path.read_text()))
        print(path.name)
