"""A worker as its distributor sees it: what it offers, what it holds, and how much more it takes."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from a2a_zmq.tasks import COMPLETED, FAILED

if TYPE_CHECKING:
    from daemons.distributor.memory import LiveTask

ANY_TYPE = "*"  # a worker that announces this runs whatever it is given
# A suspect whose start was not told (the message may be lost) is taken to have begun so long after its dispatch.
UNTOLD_START_S = 30.0
# Weights of Worker.burden(): each outweighs what comes after it. (There are 1024 slots at most.)
_WAITS, _TAKEN, _LOAD = 2.0**32, 2.0**11, 2.0**10


class Worker:
    """A connected worker.

    Attributes:
        held: its unfinished tasks in the order in which it got them; the first ``slots`` of them may be running.
        ghosts: attempts that it may still hold although they are no longer current, and since when. They use its
            credit until it reports them, or for a while: one that it forgot is never reported.
        running: how many tasks it said to run.
        limit: its credit: how many unfinished tasks it may hold.
        slot_limit: how many of them may take a slot; without end if it does not say.
        slots: how many of them it runs at a time.
        slot_types: task types whose runs take one of the slots; of the others it runs many.
        async_types: task types whose runs begin as they come; None if it does not say (one of an earlier release).
        thread_slots: how many tasks of all other types it runs at a time.
        in_slots: held tasks of these types.
        graphs: task type → hash, of the graphs that it has.
        slots_ready: how many such tasks could run there without waiting for a process to start; without end if it does
            not say.
        suspect: "" or why it may be dead (``disconnect``, ``silence``): no new work until it shows life.
        draining: it takes no more work.
        blocked_until: monotonic time until which its outbox is taken to be full.
        progress_at: monotonic time of its last result or start of a run.
        idle_since: since when it says that it holds nothing, although we count tasks on it; 0 if it does not.
        inventory: what it said to hold as it came up, kept until we own the section; None once handled.
        restarted: its process is another one than at its last session, and its inventory was not handled since.
        cancels: attempts that it is to be told to cancel → whether only the attempt is unwanted, not its task.
        trial: the suspect that it was given last (see :meth:`on_trial`).
        torn: tasks to blame if it turns out that it was dead as its connection was lost, and whether that was
            the trial of one.
        given: tasks it ever got; evens out the choice between equally loaded workers.
        whereabouts: what it said of its metrics' address (``metrics``) and its ``host``.
        clock_off_s: its clock minus ours, when its last heartbeat came; a slow way makes it lower.
        gone_at, left: since when it is away (monotonic), and whether it left in good order.
        done, failed: runs that it reported, by how they ended; they took ``run_s`` seconds in all, and ``stay_s`` from
            their dispatch to their report.
    """

    __slots__ = (
        "agent_id",
        "async_types",
        "blocked_until",
        "cancels",
        "clock_off_s",
        "done",
        "draining",
        "failed",
        "ghosts",
        "given",
        "gone_at",
        "graphs",
        "held",
        "idle_since",
        "in_slots",
        "inventory",
        "labels",
        "left",
        "limit",
        "number",
        "progress_at",
        "restarted",
        "run_s",
        "running",
        "slot_limit",
        "slot_types",
        "slots",
        "slots_ready",
        "stay_s",
        "suspect",
        "task_types",
        "thread_slots",
        "torn",
        "trial",
        "version",
        "whereabouts",
    )

    def __init__(self, agent_id: str, number: int) -> None:
        self.agent_id = agent_id
        self.number = number
        self.task_types: frozenset[str] = frozenset()
        self.labels: dict[str, Any] = {}
        self.graphs: dict[str, str] = {}
        self.slots = 1
        self.slot_types: frozenset[str] = frozenset()
        self.async_types: frozenset[str] | None = None
        self.thread_slots = 0
        self.in_slots = 0
        self.limit = 0
        self.slot_limit = self.slots_ready = sys.maxsize
        self.held: dict[str, LiveTask] = {}
        self.ghosts: dict[tuple[str, int], float] = {}
        self.running = 0
        self.suspect = ""
        self.draining = False
        self.blocked_until = 0.0
        self.progress_at = 0.0
        self.idle_since = 0.0
        self.inventory: Any = None
        self.restarted = False
        self.cancels: dict[tuple[str, int], bool] = {}
        self.given = self.done = self.failed = 0
        self.run_s = self.stay_s = 0.0
        self.trial: LiveTask | None = None
        self.torn: list[tuple[LiveTask, bool]] = []
        self.version = ""
        self.whereabouts: dict[str, str] = {}
        self.clock_off_s = 0.0
        self.gone_at = 0.0
        self.left = False

    def describe(self, details: dict[str, Any]) -> None:
        """Take over what the worker announced of itself; what is malformed counts as not said."""
        self.task_types = _names(details.get("task_types"))
        self.slot_types = _names(details.get("slot_types"))
        threads = details.get("thread_slots")
        self.async_types, self.thread_slots = None, 0
        if isinstance(threads, int) and threads >= 0 and "async_types" in details:
            self.async_types, self.thread_slots = _names(details["async_types"]), threads
        self.in_slots = 0
        for task in self.held.values():
            self._slot(task)
        labels = details.get("labels")
        self.labels = dict(labels) if isinstance(labels, dict) else {}
        graphs = details.get("graphs")
        named = graphs.items() if isinstance(graphs, dict) else ()
        self.graphs = {name: text for name, text in named if isinstance(text, str)}
        slots = details.get("slots")
        self.slots = slots if isinstance(slots, int) and slots > 0 else 1
        self.limit = self.slots
        self.slot_limit = self.slots_ready = sys.maxsize
        self.take_limit(details)
        self.draining = details.get("draining") is True
        version = details.get("version")
        self.version = version[:64] if isinstance(version, str) else ""
        said = {name: details.get(name) for name in ("metrics", "host")}
        self.whereabouts = {name: text[:256] for name, text in said.items() if isinstance(text, str)}

    def take(self, task: LiveTask) -> None:
        """It holds this task from now on."""
        if task.task_id not in self.held:
            self._slot(task)
        self.held[task.task_id] = task

    def ran(self, outcome: Any, took: Any, stay_s: float) -> None:
        """A run ended here, and was worth a report."""
        if outcome == COMPLETED:
            self.done += 1
        elif outcome == FAILED:
            self.failed += 1
        else:  # stopped, moved, put off, or waiting for an answer: says nothing of how long such runs take
            return
        self.stay_s += stay_s
        if isinstance(took, (int, float)):
            self.run_s += took

    def drop(self, task: LiveTask) -> None:
        """It does not hold this task any more, if it did."""
        if self.held.pop(task.task_id, None) is not None:
            self.in_slots -= task.slotted

    def slots_for(self, task: LiveTask) -> bool:
        """Would it take a slot?"""
        return task.apart or task.task_type in self.slot_types

    def _slot(self, task: LiveTask) -> None:
        task.slotted = self.slots_for(task)
        self.in_slots += task.slotted

    def take_limit(self, payload: dict[str, Any]) -> None:
        """A later word on its credit."""
        limit, slot_limit, ready = payload.get("limit"), payload.get("slot_limit"), payload.get("slots_ready")
        if isinstance(limit, int) and limit >= 0:
            self.limit = limit
        if isinstance(slot_limit, int) and slot_limit >= 0:
            self.slot_limit = slot_limit
        if isinstance(ready, int) and ready >= 0:
            self.slots_ready = ready

    def takes(self, task_type: str, mono: float, *, apart: bool) -> bool:
        """May it get such a task now?"""
        return self.open(mono) and not self.full_for(task_type, apart=apart)

    def full_for(self, task_type: str, *, apart: bool) -> bool:
        """Do such tasks wait for one of its slots, and enough of them are there?"""
        return self.in_slots >= self.slot_limit and (apart or task_type in self.slot_types)

    def credit(self) -> int:
        """How many more tasks it takes; negative where its limit sank."""
        return self.limit - len(self.held) - len(self.ghosts)

    def load(self) -> float:
        """Tasks for each slot: what a further one would wait behind."""
        return (len(self.held) + len(self.ghosts)) / self.slots

    def burden(self) -> float:
        """By what workers are compared for a further task that takes a slot: the least gets it.

        First whether it would have to wait, for a slot or for a process that starts. Then what takes a slot (all where
        a worker, one of an earlier release, does not tell them apart), then the load.
        """
        count = len(self.held) + len(self.ghosts)
        taken = self.in_slots if self.slot_types else count
        waits = _WAITS if taken >= min(self.slots, self.slots_ready) else 0.0
        return waits + taken / self.slots * _TAKEN + min(count / self.slots, _LOAD)

    def open(self, mono: float) -> bool:
        """May it get work now?"""
        return not self.suspect and not self.draining and mono >= self.blocked_until and self.credit() > 0

    def on_trial(self, mono: float, trial_s: float, max_deaths: int) -> tuple[LiveTask, float] | None:
        """The suspect whose attempt here is a trial still, and when that ends (monotonic).

        A suspect is a task that ran in ``max_deaths`` workers as they died. One at a time is tried on a worker, so that
        a further death says who did it; it is at the beginning of a run that this is known, for a length that doubles
        with each death, so that other suspects need not wait for the end of a long one.
        """
        task = self.trial
        if task is None or self.held.get(task.task_id) is not task:
            return None
        ends = trial_end(task, trial_s, max_deaths)
        return (task, ends) if mono < ends else None

    def serves(self, task_type: str, labels: dict[str, Any], pin: str, graph: str = "") -> bool:
        if pin and pin != self.agent_id:
            return False
        if graph and self.graphs.get(task_type) != graph:
            return False
        if task_type not in self.task_types and ANY_TYPE not in self.task_types:
            return False
        return all(self.labels.get(name) == value for name, value in labels.items())

    def cancel(self, task_id: str, attempt: int, *, replaced: bool = False) -> None:
        """Have it told, with this wake-up's message, to end that attempt.

        Args:
            replaced: another attempt takes its place. The worker says so in its report: whoever owns the section then
                may not have heard of the replacement, and must not take the task for cancelled.
        """
        self.cancels[task_id, attempt] = replaced

    def disown(self, task_id: str, attempt: int, mono: float) -> None:
        """An attempt that it has is no longer current: it is to end it, and until then it takes up room."""
        self.ghosts[task_id, attempt] = mono
        self.cancel(task_id, attempt, replaced=True)

    def may_be_running(self) -> set[str]:
        """Ids of the held tasks that it may have begun, whether it has told of that or not.

        Of those that need one of its processes or threads these are the oldest ones, as many as it can run at a time.
        """
        if self.async_types is None:
            return set(islice(self.held, max(self.slots, self.running)))
        begun, room = set(), {True: self.slots, False: self.thread_slots}
        for task_id, task in self.held.items():
            if task.slotted or task.task_type not in self.async_types:
                room[task.slotted] -= 1
                if room[task.slotted] < 0:
                    continue
            begun.add(task_id)
        return begun


def trial_end(task: LiveTask, trial_s: float, max_deaths: int) -> float:
    """Until when the present run of a suspect says something about it (monotonic)."""
    began = task.started_mono or task.dispatched_at + UNTOLD_START_S
    return began + trial_s * 2.0 ** min(task.deaths - max_deaths, 20)


def _names(value: Any) -> frozenset[str]:
    """What is malformed counts as not said."""
    return frozenset(name for name in value if isinstance(name, str)) if isinstance(value, list) else frozenset()
