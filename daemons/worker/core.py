"""What a worker decides. Pure: events in, effects out (see :mod:`daemons.runtime.contract`).

Life of an attempt: ``assign_tasks`` → held (a FIFO a kind) → handed to its executor → running → its result waits for
the next :meth:`WorkerCore.settle`, which sends everything that finished since the last one in one message. An attempt
is known by (task id, attempt): a repeated assignment changes nothing, a higher attempt replaces a lower one.

A worker writes no shared state, so there is nothing to cut; what it holds and has not reported lives in memory, and the
attempts of a worker that dies are repeated elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from a2a_zmq.clock import Now, iso
from a2a_zmq.models import AgentStatus, LocalAgentState
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.protocol.ports import PeerDown, PeerUp, Received
from a2a_zmq.tracing.spans import Tracer
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.contract import (
    Batch,
    ChildrenReady,
    DrainRequested,
    Effect,
    Event,
    Log,
    Meter,
    ModelCalled,
    RunEvents,
    RunFinished,
    RunStarted,
    Send,
    StartRun,
    StopRun,
    Undelivered,
)
from daemons.runtime.reconfigured import Reconfigured, adopt
from daemons.runtime.relaying import Relay
from daemons.worker import reports
from daemons.worker.board import Board
from daemons.worker.config import WorkerConfig
from daemons.worker.credit import Credit
from daemons.worker.kinds import PROCESS, TaskKind
from daemons.worker.leaving import Leaving
from daemons.worker.model_calls import count_call
from daemons.worker.outgoing import Key
from daemons.worker.oversight import Oversight
from daemons.worker.runs import Run, parse
from daemons.worker.story import Story
from daemons.worker.tally import Tally
from daemons.worker.uplink import Uplink


class WorkerCore:
    """The worker's state machine."""

    def __init__(
        self,
        agent_id: str,
        distributor_id: str,
        *,
        config: WorkerConfig,
        task_types: Mapping[str, TaskKind] | Iterable[str],
        meter: Meter,
        labels: Mapping[str, str] | None = None,
        rng: object = None,
        tracer: Tracer | None = None,
    ) -> None:
        """
        Args:
            agent_id: this worker.
            distributor_id: the distributor it works for; nobody else is listened to.
            config: limits.
            task_types: task type → how it is run (``Registry.kinds()``); from plain names all count as ``async``.
            meter: where to count.
            labels: what tasks may ask for.
            rng: not used; every core may be given one.
            tracer: where spans go; None if nothing is traced.
        """
        self.agent_id = agent_id
        self.distributor_id = distributor_id
        self._config = config = replace(config)  # ours: it may change
        named = task_types if isinstance(task_types, Mapping) else {name: TaskKind("async") for name in task_types}
        self._kinds = dict(named)
        self._labels = dict(labels or {})
        self._meter = meter
        self._board = Board(config)
        self._slot_types = self._types_of(PROCESS)
        self._credit = Credit(self._board, config.slots, config.max_limit, config.credit_horizon_s)
        self._uplink = Uplink(distributor_id, config)
        self._relay = Relay(config.message_bytes)
        self._oversight = Oversight(self._board, self._uplink, config, meter)
        self._story = Story(agent_id)
        self._leaving = Leaving(
            self._board,
            self._uplink,
            self._story,
            lambda now: self._uplink.beat(lambda: self.heartbeat(distributor_id, now)),
        )
        self._tally = Tally(meter, tracer)
        self._graphs = {name: kind.graph for name, kind in self._kinds.items() if kind.graph}
        self._actions: dict[str, Callable[[Message, Now], list[Effect]]] = {
            "assign_tasks": self._assign_tasks,
            "assign_task": self._assign_tasks,
            "cancel_tasks": self._cancel_tasks,
            "drain": lambda _, now: self._leaving.begin("asked by the distributor", config.drain_timeout_s, now),
        }

    # ------------------------------------------------------------ events

    def handle(self, event: Event | Undelivered, now: Now) -> list[Effect]:
        if isinstance(event, RunFinished):
            return self._run_finished(event, now)
        if isinstance(event, Received):
            return self._received(event, now)
        if isinstance(event, RunStarted):
            run = self._board.get(event.task_id, event.attempt)
            if run is not None:
                self._board.begun(run, now.mono, event.started_at)
        elif isinstance(event, RunEvents):
            self._relay.add(reports.place(event), event.chunk.events)
        elif isinstance(event, ChildrenReady):
            self._credit.slots_ready = event.count
        elif isinstance(event, ModelCalled):
            count_call(self._meter, event.call)
        elif isinstance(event, Undelivered) and not event.effect.bulk:
            self._uplink.undelivered(event, now.mono)
        elif isinstance(event, PeerUp):
            if event.peer.agent_id == self.distributor_id:
                again = self._uplink.up(event)
                self._story.note(now, "distributor_up", restarted=event.peer.restarted, results_sent_again=again)
        elif isinstance(event, PeerDown):
            if event.agent_id == self.distributor_id:
                self._uplink.down()
                self._story.note(now, "distributor_down", reason=event.reason)
        elif isinstance(event, DrainRequested):
            return self._leaving.begin(event.reason, event.deadline_s, now)
        elif isinstance(event, LocalCall):
            return self._local_call(event, now)
        elif isinstance(event, Reconfigured):
            adopt(self._config, event.config)
            self._board.allow(self._config.async_slots)
            self._credit.allow(self._config.max_limit)
        return []

    def executor_health(self, problem: str, stuck: Iterable[str] = (), blocker: Key | None = None) -> None:
        """The executors' own view (``Executor.health()``): "" if runs run, else why not; which of them begin nothing
        more, and which run is known to be the cause."""
        self._leaving.health(problem, stuck, blocker)

    def _received(self, event: Received, now: Now) -> list[Effect]:
        message = event.message
        if message.type is not MessageType.REQUEST:
            return []
        if event.peer != self.distributor_id:
            return [reports.refusal(event.peer, message, "FORBIDDEN", "not the distributor of this worker")]
        action = self._actions.get(message.action)
        if action is None:
            return [reports.refusal(event.peer, message, "UNKNOWN_ACTION", f"a worker has no {message.action!r}")]
        if not self._uplink.admits(message.payload):
            self._meter.count("routing_errors_total", reason="stale_fence")
            return [reports.stale(event.peer, message)]
        return action(message, now)

    # ------------------------------------------------------------ the distributor's requests

    def _assign_tasks(self, message: Message, now: Now) -> list[Effect]:
        payload = message.payload
        tasks = payload.get("tasks", [payload["task"]] if "task" in payload else None)
        fence = payload.get("fence", self._uplink.guard.fence)
        if not isinstance(fence, int) or not isinstance(tasks, list):
            return [reports.refusal(message.sender, message, "INVALID_TASK", "needs a fence and a list of tasks")]
        effects: list[Effect] = []
        for record in tasks:
            try:
                run = parse(record, fence, self._kinds)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                why = f"{type(error).__name__}: {error}"
                effects.append(Log("error", "task_malformed", {"task_id": reports.named(record)[0], "why": why}))
                self._refuse(record, why)
                continue
            if self._leaving.closed:
                self._uplink.hand_back((run.task_id, run.attempt))
            else:
                self._admit(run, now, effects)
        return effects

    def _refuse(self, record: Any, why: str) -> None:
        """What is not answered counts as held here for as long as anything else is."""
        task_id, attempt = reports.named(record)
        if isinstance(task_id, str) and isinstance(attempt, int) and self._board.get(task_id, attempt) is None:
            self._uplink.result((task_id, attempt), reports.unreadable(task_id, attempt, why))

    def _admit(self, run: Run, now: Now, effects: list[Effect]) -> None:
        known = self._board.runs.get(run.task_id)
        if known is not None:
            if run.attempt <= known.attempt:
                return
            # Nobody waits for the lower attempt any more.
            if not self._board.drop_held(known):
                self._board.set_aside(known)
                self._stop(known, "replaced", now, effects)
        elif self._uplink.result_again((run.task_id, run.attempt)):
            return
        if run.kind:
            self._board.add(run)
            return
        effects += self._report(run, reports.no_handler(run, self.agent_id, now.wall))

    def _cancel_tasks(self, message: Message, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for pair in pairs if isinstance(pairs := message.payload.get("tasks"), list) else []:
            if not (isinstance(pair, list) and len(pair) in (2, 3) and isinstance(pair[0], str)):
                continue
            why = "replaced" if len(pair) == 3 else "cancelled"
            run = self._board.runs.get(pair[0])
            if run is None or run.attempt != pair[1]:
                continue
            if self._board.drop_held(run):
                ended = RunFinished(run.task_id, run.attempt, "abandoned", b"null", why, why, False, 0.0, 0.0)
                effects += self._report(run, ended)
            else:
                self._stop(run, why, now, effects)
        return effects

    # ------------------------------------------------------------ runs

    def _stop(self, run: Run, reason: str, now: Now, effects: list[Effect]) -> None:
        # A run keeps its first reason; its executor goes on to SIGKILL by itself.
        if not run.stop_reason:
            run.stop_reason, run.stop_mono = reason, now.mono
            effects.append(StopRun(run.task_id, run.attempt, "cancelled" if reason == "replaced" else reason))

    def _run_finished(self, event: RunFinished, now: Now) -> list[Effect]:
        run = self._board.ended(event.task_id, event.attempt)
        if run is None:
            return []
        self._credit.finished(slotted=run.kind == PROCESS)
        if run.call_id is not None:
            return [LocalAnswer(run.call_id, reports.local_answer(event))]
        if run.stop_reason == "replaced" and event.outcome == "abandoned":
            event.error = event.error_kind = "replaced"
        called_back = run.called_back and event.error_kind == "killed"
        if event.started_at == 0.0 and event.outcome == "failed" and (self._leaving.drain.reason or called_back):
            self._uplink.hand_back((run.task_id, run.attempt))
            return []
        if called_back or (run.stop_reason == "drain" and event.error_kind == "killed"):
            if self._leaving.blocker == (run.task_id, run.attempt):
                event.error, event.error_kind = reports.BLOCKED, "blocked"  # it would block the next worker, too
            else:
                # A restart is no failure of the task. (Of a graph the step is run again that took too long.)
                event.outcome, event.error_kind = "moved", "drain"
        return self._report(run, event)

    def _report(self, run: Run, event: RunFinished) -> list[Effect]:
        self._uplink.result((event.task_id, event.attempt), reports.encode(event))
        return self._tally.note(run, event)

    # ------------------------------------------------------------ settle

    def settle(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        self._credit.advance(now.mono)
        for run in self._board.overdue(now.mono):
            self._stop(run, "timeout", now, effects)
        effects += self._leaving.look(now, self._config.drain_timeout_s)
        lasting = [run for run in self._board.lasting(now.mono) if run.call_id is None]
        if lasting and self._uplink.connected:
            tasks = [[run.task_id, run.attempt, iso(run.started_wall)] for run in lasting]
            payload = {"action": "task_started", "tasks": tasks}
            effects.append(Send(self.distributor_id, MessageType.EVENT, payload, reliable=False))
        for run in self._board.to_start(now):
            effects.append(StartRun(run.task_id, run.attempt, run.task_type, run.payload, run.timeout_s, run.metadata))
        sends = self._uplink.sends(
            now.mono, self._granted, len(self._board.runs), lambda: self.heartbeat(self.distributor_id, now)
        )
        effects += [*sends, *self._relay.sends(self.distributor_id if self._uplink.connected else "")]
        effects += self._leaving.step(now, lambda: self._stop_all(now, effects), just_sent=bool(sends))
        return effects

    def _stop_all(self, now: Now, effects: list[Effect]) -> None:
        for run in self._board.all():
            self._stop(run, "drain", now, effects)

    def _granted(self) -> dict[str, int]:
        """The credit, as the distributor is told it."""
        granted = self._credit.slots() if self._slot_types else {}
        return {"limit": 0 if self._leaving.closed else self._credit.limit(), **granted}

    # ------------------------------------------------------------ in-process calls

    def _local_call(self, call: LocalCall, now: Now) -> list[Effect]:
        if call.name == "send_heartbeat":
            sent = self._uplink.beat(lambda: self.heartbeat(self.distributor_id, now))
            return [*sent, LocalAnswer(call.call_id, bool(sent))]
        try:
            if call.name != "execute_task":
                raise ValueError(f"a worker has no call {call.name!r}")
            run = parse(call.args["task"], self._uplink.guard.fence, self._kinds)
            if not run.kind:
                raise ValueError(f"no handler of task type {run.task_type!r}")
            if run.task_id in self._board.runs:
                raise ValueError(f"task {run.task_id!r} is here already")
            if self._leaving.closed:
                raise ValueError(self._leaving.closed)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return [LocalAnswer(call.call_id, reports.local_failure(f"cannot run this: {error}"))]
        run.call_id = call.call_id
        self._board.add(run)
        return []

    # ------------------------------------------------------------ rest of the contract

    def cut(self, now: Now) -> Batch | None:
        """A worker writes no shared state."""
        return None

    def supervise(self, step: str, now: Now) -> list[Effect]:
        return self._oversight.step(step, now, limit=self._credit.due(), leaving=bool(self._leaving.closed))

    def _types_of(self, executor: str) -> list[str]:
        return sorted(name for name, kind in self._kinds.items() if kind.executor == executor)

    def announce(self, now: Now) -> dict[str, Any]:
        return {
            "task_types": sorted(self._kinds),
            "slot_types": self._slot_types,
            "async_types": self._types_of("async"),
            "thread_slots": self._config.thread_slots,
            "slots": self._config.slots,
            **self._uplink.tells(self._granted()),
            "labels": self._labels,
            "running": [[r.task_id, r.attempt, r.fence] for r in self._board.runs.values() if r.call_id is None],
            "draining": bool(self._leaving.drain.reason),
            **({"graphs": self._graphs} if self._graphs else {}),
            **self._uplink.guard.obeys(),
        }

    def welcome(self, peer: str, now: Now) -> dict[str, Any]:
        """Nobody joins a worker."""
        return {}

    def heartbeat(self, peer: str, now: Now) -> dict[str, Any]:
        self._story.beat(now)
        return {
            "action": "heartbeat",
            **self._uplink.tells(self._granted()),
            "running": self._board.running,
            "held": self._board.waiting + self._uplink.unsent,  # what the distributor cannot know of yet counts
            "draining": bool(self._leaving.drain.reason),
        }

    def local_state(self, now: Now) -> LocalAgentState:
        facts = {
            "fence": self._uplink.guard.fence,
            "epoch": self._uplink.guard.epoch,
            "limit": self._uplink.told_limit,
            "running": self._board.running,
            "held": self._board.waiting,
            "tasks_per_s": round(self._credit.rate, 1),
            "unsent": self._uplink.unsent,
            "ended": dict(self._tally.ended),
        }
        metadata = {"role": "worker", "distributor": self.distributor_id, "task_types": sorted(self._kinds)}
        tasks = reports.shown(self._board.runs.values(), now.wall)
        return self._story.state(now, self._status(), tasks, facts, metadata)

    def _status(self) -> AgentStatus:
        if self._leaving.problem:
            return AgentStatus.ERROR
        if not self._uplink.connected or self._leaving.drain.reason:
            return AgentStatus.RECOVERING
        return AgentStatus.BUSY if len(self._board) else AgentStatus.IDLE

    def ready(self) -> tuple[bool, str]:
        if not self._uplink.connected:
            return False, f"no session with {self.distributor_id}"
        if self._leaving.drain.reason:
            return False, f"draining: {self._leaving.drain.reason}"
        return not self._leaving.problem, self._leaving.problem

    def next_deadline(self) -> float:
        return min(self._board.next_deadline(), self._uplink.next_deadline(), self._leaving.next_deadline())
