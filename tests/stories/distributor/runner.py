"""Runs text stories: commands, a line ``----``, and everything that left the distributor because of them.

``python -m tests.stories.distributor.runner`` writes what happens now into all stories; read the difference before
keeping it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemons.distributor.config import DistributorConfig
from tests.unit.distributor.harness import Site

STORIES = Path(__file__).parent
SEPARATOR = "----"


# Commands that are methods of the site, taking their words as they are.
PLAIN: dict[str, Callable[..., None]] = {
    "own": Site.own,
    "disown": Site.disown,
    "coordinator-up": Site.coordinator_up,
    "coordinator-down": Site.coordinator_down,
    "worker-suspect": Site.worker_suspect,
    "worker-down": Site.worker_down,
    "cancel": Site.cancel,
    "supervise": Site.supervise,
    "store-away": Site.store_away,
    "store-back": Site.store_back,
}


class Teller:
    """Performs the commands of one story on a site of its own."""

    def __init__(self) -> None:
        self.site = Site()
        self.commands: dict[str, Callable[..., None]] = {
            "config": self.config,
            "worker-up": self.worker_up,
            "assign": self.assign,
            "complete": self.complete,
            "fail": self.fail,
            "abandon": self.abandon,
            "handback": self.handback,
            "credit": self.credit,
            "wait": self.wait,
            "restart": self.restart,
            "drain": self.drain,
        }

    def perform(self, line: str) -> None:
        name, *words = shlex.split(line)
        options = dict(word.split("=", 1) for word in words if "=" in word)
        words = [word for word in words if "=" not in word]
        if name in PLAIN:
            PLAIN[name](self.site, *words, **options)
        else:
            self.commands[name](*words, **options)

    def config(self, **options: str) -> None:
        self.site = Site(DistributorConfig(**{name: _number(value) for name, value in options.items()}))

    def worker_up(self, name: str, **options: str) -> None:
        self.site.worker_up(
            name,
            limit=int(options.get("limit", "1")),
            slots=int(options.get("slots", "1")),
            types=options.get("types", "noop").split(","),
            running=[[*_attempt(item), 1] for item in options.get("running", "").split(",") if item],
            restarted="restarted" in options,
        )

    def assign(self, *task_ids: str, **options: str) -> None:
        task_type = options.pop("type", "noop")
        self.site.assign(*task_ids, task_type=task_type, **{name: _number(value) for name, value in options.items()})

    def complete(self, worker: str, *attempts: str) -> None:
        self.site.complete(worker, *(_attempt(each) for each in attempts))

    def fail(self, worker: str, attempt: str, kind: str = "raised", retryable: str = "yes", signal: str = "") -> None:
        detail: dict[str, Any] = {"detail": {"process_died": True, "signal": signal}} if signal else {}
        self.site.fail(worker, *_attempt(attempt), kind=kind, retryable=retryable == "yes", **detail)

    def abandon(self, worker: str, attempt: str) -> None:
        self.site.report(worker, *_attempt(attempt), "abandoned", error_kind="cancelled")

    def handback(self, worker: str, *attempts: str) -> None:
        self.site.from_worker(worker, "task_handback", tasks=[list(_attempt(each)) for each in attempts])

    def credit(self, worker: str, limit: str) -> None:
        held = {"running": 1, "held": 1}
        self.site.from_worker(worker, "heartbeat", limit=int(limit), draining=False, **held)

    def wait(self, seconds: str) -> None:
        self.site.advance(float(seconds))

    def drain(self, seconds: str) -> None:
        self.site.drain(float(seconds))

    def restart(self) -> None:
        """The process dies; a new one starts a second later on the same store."""
        trace = self.site.trace
        self.site = Site(self.site.config, self.site.store, self.site.mono + 1)
        self.site.trace = trace


def _attempt(text: str) -> tuple[str, int]:
    task_id, _, attempt = text.partition("#")
    return task_id, int(attempt)


def _number(text: str) -> Any:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def tell(text: str) -> str:
    """Run a story and return it with what really happened."""
    teller = Teller()
    out: list[str] = []
    lines = iter(text.splitlines())
    block: list[str] = []
    for line in lines:
        if line.strip() != SEPARATOR:
            out.append(line)
            if line and not line.startswith("#"):
                block.append(line)
            continue
        out.append(SEPARATOR)
        teller.site.trace.clear()
        for command in block:
            teller.perform(command)
        block = []
        out.extend(teller.site.trace)
        for expected in lines:  # skip what was expected, up to the empty line
            if not expected.strip():
                break
        out.append("")
    teller.site.check()
    return "\n".join(out).rstrip("\n") + "\n"


def main() -> int:
    for path in sorted(STORIES.glob("*.txt")):
        path.write_text(tell(path.read_text()))
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
