"""Random lives of a distributor: whatever happens in whatever order, each accepted task ends, recorded exactly once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from daemons.distributor.config import DistributorConfig
from tests.unit.distributor.harness import Site

CONFIG = DistributorConfig(max_unrecorded=6, backlog_slice=3, recent_ids=50, message_bytes=400, write_bytes=900)


class Worker:
    """A worker that remembers what it was sent, until its process dies."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = False
        self.running: dict[str, int] = {}
        self.read = 0
        self.limit = 3

    def receive(self, site: Site) -> None:
        """Take in everything that was sent since the last time (lost if it is not up)."""
        messages = site.sent[self.read :]
        self.read = len(site.sent)
        for to, action, payload in messages:
            if to != self.name or not self.up:
                continue
            if action == "assign_tasks":
                for item in payload["tasks"]:
                    held = self.running.get(item["task_id"], 0)
                    self.running[item["task_id"]] = max(held, item["attempt"])
            elif action == "cancel_tasks":
                for task_id, attempt, *why in payload["tasks"]:
                    if self.running.get(task_id) == attempt:
                        del self.running[task_id]
                        kind = "replaced" if why else "cancelled"
                        site.report(self.name, task_id, attempt, "abandoned", error_kind=kind)


class World:
    """One run."""

    def __init__(self, seed: int, make_site: Callable[..., Site]) -> None:
        self.random = random.Random(seed)
        self.make_site = make_site
        self.site: Site = make_site(CONFIG)
        self.site.own()
        self.site.coordinator_up()
        self.owned = True
        self.workers = [Worker(f"w{number}") for number in range(3)]
        self.made = 0
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (20, self.assign),
            (40, self.finish),
            (10, self.fail),
            (4, self.cancel),
            (8, self.worker_up),
            (4, self.worker_dies),
            (3, self.worker_reconnects),
            (2, self.worker_restarts),
            (3, self.suspect),
            (3, self.handback),
            (3, self.store),
            (2, self.ownership),
            (2, self.distributor_restarts),
            (3, self.coordinator),
            (3, self.resync),
            (3, self.answer),
            (20, self.time),
            (3, self.full),
        ]

    def pick(self, *, up: bool = True) -> Worker | None:
        some = [worker for worker in self.workers if worker.up is up]
        return self.random.choice(some) if some else None

    def assign(self) -> None:
        names = [f"t{self.made + number}" for number in range(self.random.randint(1, 5))]
        self.made += len(names)
        kind = self.random.choice(["noop", "noop", "other"])
        self.site.assign(*names, task_type=kind, priority=self.random.randint(0, 2))

    def finish(self) -> None:
        worker = self.pick()
        if worker is not None and worker.running:
            task_id = self.random.choice(sorted(worker.running))
            self.site.complete(worker.name, (task_id, worker.running.pop(task_id)))

    def fail(self) -> None:
        worker = self.pick()
        if worker is not None and worker.running:
            task_id = self.random.choice(sorted(worker.running))
            retryable = self.random.random() < 0.9
            self.site.fail(worker.name, task_id, worker.running.pop(task_id), retryable=retryable)

    def cancel(self) -> None:
        if self.made:
            self.site.cancel(f"t{self.random.randrange(self.made)}")

    def worker_up(self) -> None:
        worker = self.pick(up=False)
        if worker is not None:
            self.join(worker, restarted=False)

    def join(self, worker: Worker, *, restarted: bool) -> None:
        worker.up = True
        running = [[task_id, attempt, 1] for task_id, attempt in worker.running.items()]
        types = ["noop", "other"] if worker.name != "w0" else ["noop"]
        self.site.worker_up(worker.name, limit=worker.limit, slots=2, types=types, running=running, restarted=restarted)

    def worker_dies(self) -> None:
        worker = self.pick()
        if worker is not None:
            worker.up = False
            if self.random.random() < 0.5:
                worker.running.clear()
            self.site.worker_down(worker.name, self.random.choice(["exited", "silence", "goodbye"]))

    def worker_reconnects(self) -> None:
        worker = self.pick()
        if worker is not None:
            self.site.worker_suspect(worker.name)
            self.join(worker, restarted=False)

    def worker_restarts(self) -> None:
        worker = self.pick()
        if worker is not None:
            worker.running = {task_id: a for task_id, a in worker.running.items() if self.random.random() < 0.5}
            self.join(worker, restarted=True)

    def suspect(self) -> None:
        worker = self.pick()
        if worker is not None:
            self.site.worker_suspect(worker.name, "silence")
            self.site.from_worker(worker.name, "heartbeat", limit=worker.limit, running=len(worker.running), held=0)

    def handback(self) -> None:
        worker = self.pick()
        if worker is not None and worker.running:
            task_id = self.random.choice(sorted(worker.running))
            self.site.from_worker(worker.name, "task_handback", tasks=[[task_id, worker.running.pop(task_id)]])

    def store(self) -> None:
        if self.site.store_up:
            self.site.store_away()
        else:
            self.site.store_back()

    def ownership(self) -> None:
        if self.owned:
            if self.site.flight is not None and self.random.random() < 0.5:
                for write in self.site.flight.writes:  # applied, but nobody heard of it
                    self.site.store.apply(write)
            self.site.disown()
        else:
            self.site.own()
        self.owned = not self.owned

    def distributor_restarts(self) -> None:
        old = self.site
        self.site = self.make_site(CONFIG, old.store, old.mono + 1)
        for worker in self.workers:
            worker.up = False
            worker.read = 0
        self.site.own()
        self.owned = True
        self.site.coordinator_up()

    def coordinator(self) -> None:
        if "coordinator-1" in self.site.unreachable:
            self.site.coordinator_up()
        else:
            self.site.coordinator_down()

    def resync(self) -> None:
        self.site.from_coordinator("resync")

    def answer(self) -> None:
        if self.site.queries:
            self.site.answer()

    def time(self) -> None:
        self.site.advance(self.random.choice([0.01, 0.1, 0.3, 2.0]))
        self.site.supervise()

    def full(self) -> None:
        name = self.random.choice([worker.name for worker in self.workers])
        self.site.full ^= {name}

    def step(self) -> None:
        weights = [weight for weight, _ in self.actions]
        self.random.choices([action for _, action in self.actions], weights)[0]()
        for worker in self.workers:
            worker.receive(self.site)
        assert self.site.core.violations() == []

    def heal(self) -> None:
        """All faults end; what was accepted has to end too."""
        site = self.site
        site.full.clear()
        if not site.store_up:
            site.store_back()
        if not self.owned:
            site.own()
        site.coordinator_up()
        for worker in self.workers:
            self.join(worker, restarted=False)
        for _ in range(60):
            while site.queries:
                site.answer()
            for worker in self.workers:
                worker.receive(site)
                for task_id, attempt in list(worker.running.items()):
                    worker.running.pop(task_id, None)
                    site.complete(worker.name, (task_id, attempt))
                site.from_worker(worker.name, "heartbeat", limit=worker.limit, running=0, held=0, draining=False)
            site.advance(1)
            site.supervise()
            if not site.store.live:
                return


@pytest.mark.parametrize("seed", range(40))
def test_every_accepted_task_ends_and_is_recorded_once(make_site: Callable[..., Site], seed: int) -> None:
    world = World(seed, make_site)
    for _ in range(150):
        world.step()
    world.heal()
    assert world.site.store.live == {}
    assert len(world.site.store.results) == world.made
    world.site.check()
