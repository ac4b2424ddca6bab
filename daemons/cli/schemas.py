"""What commands print with ``--json``: one object on one line. ``a2actl schema COMMAND`` and docs/cli-json.md are made
from these models, and real outputs are checked against them in the tests. :mod:`daemons.cli.schema_reference` prints
them.

Members are added in later releases, never taken away or given another meaning; whoever reads them passes over those
that it does not know. ``None`` is null.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["pending", "in_progress", "waiting", "completed", "failed", "abandoned"]
Json = dict[str, Any]


class Output(BaseModel):
    """An object; in the tests a member that is not described is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


# ---------------------------------------------------------------- the fleet


class Load(Output):
    """What a worker does. Counters begin when it joins."""

    id: str = Field(description="the worker")
    suspect: str = Field(description='why it may be dead, "" if it is well')
    draining: bool = Field(description="it takes no new work")
    running: int = Field(description="tasks that run")
    held: int = Field(description="tasks that it has, running or not")
    in_slots: int = Field(description="of these, such that take a slot (a child process)")
    done: int = Field(description="runs that completed")
    failed: int = Field(description="runs that failed")
    run_s: float = Field(description="seconds that these took in all")
    stay_s: float = Field(description="seconds from dispatch to report, in all")


class Worker(Output):
    """A worker, as its distributor reported it."""

    id: str = Field(description="its id")
    up: bool = Field(description="it is connected")
    slots: int | None = Field(None, description="tasks in child processes that it runs at a time")
    task_types: list[str] = Field([], description="what it runs")
    labels: dict[str, str] = Field({}, description="its labels")
    version: str = Field("", description="release that it runs")
    load: Load | None = Field(None, description="what it does, where it was asked for")
    metrics: str | None = Field(None, description="where its metrics are, HOST:PORT")
    host: str | None = Field(None, description="name of its host")


class Distributor(Output):
    """A distributor, as the coordinator sees it."""

    id: str = Field(description="its id")
    up: bool = Field(description="it is connected")
    status: str = Field(description="idle, busy, draining, recovering, error or down")
    version: int = Field(description="of its section of the shared state")
    suite: str = Field(description='release that it runs, "" if unknown')
    clock_off_s: float = Field(description="its clock minus the coordinator's")
    workers: list[Worker] = Field(description="those that it has, and lately had")
    pending: int = Field(description="tasks that wait for a worker")
    in_progress: int = Field(description="tasks that workers have")
    waiting: int = Field(description="tasks that wait for an answer")
    slots: int = Field(description="of all its workers")
    task_types: list[str] = Field(description="what its workers run")
    late: int | None = Field(None, description="results of attempts that no longer counted, where asked for")
    away_s: float | None = Field(None, description="of one that is down: for how long")
    away_since: str | None = Field(None, description="and since when")
    failover_in_s: float | None = Field(None, description="when its tasks go to others; null: not to be expected")
    moving: int | None = Field(None, description="tasks that are being moved")


class Coordinator(Output):
    """The coordinator that answered."""

    id: str = Field(description="its id")
    leading: bool = Field(description="it leads; false: it stands by")
    leader: str = Field(description='who leads, as far as it knows; ""')
    draining: bool = Field(description="it is about to leave")
    fence: int = Field(description="of its leadership")
    epoch: str = Field(description="of the shared state; another one after Redis lost its data")
    time: str = Field(description="its clock, ISO 8601 in UTC, as all times are")
    uptime_s: float = Field(description="seconds since its start")
    clients: int = Field(description="connected clients and operators")
    inbox: int = Field(description="tasks that nobody can run now")
    live: int = Field(description="unfinished tasks")
    dead_letters: int = Field(description="tasks that were given up and are kept")
    late_results: int = Field(description="results that came for tasks that had ended")
    task_types: list[str] = Field(description="what workers of the fleet ever offered")


class Standby(Output):
    """A further coordinator."""

    id: str = Field(description="its id")
    distributors: int = Field(description="how many have a session with it")


class Store(Output):
    """Redis, as the coordinator finds it."""

    available: bool = Field(description="it can be written")
    spooling: bool = Field(description="it cannot, and the local disk stands in for it")
    reason: str = Field(description='why it cannot; ""')
    spool_off: str = Field("", description='why no new tasks are taken while it cannot be written; "" if they are')
    unpersisted: int = Field(description="changes that are not written yet")
    batches: int = Field(description="writes so far")


class StatusOutput(Output):
    """``a2actl status``."""

    coordinator: Coordinator = Field(description="who answered")
    standbys: list[Standby] = Field(description="coordinators that stand by")
    distributors: list[Distributor] = Field(description="those that are registered or connected")
    tasks: dict[Status, int] = Field(description="number by status; ended ones since this coordinator's start")
    store: Store = Field(description="the shared state")


class TopCoordinator(Output):
    """The part of ``status`` that ``top`` shows."""

    id: str = Field(description="its id")
    leading: bool = Field(description="it leads")
    leader: str = Field(description="who does")
    draining: bool = Field(description="it is about to leave")
    uptime_s: float = Field(description="seconds since its start")
    clients: int = Field(description="connected clients and operators")
    inbox: int = Field(description="tasks that nobody can run now")
    live: int = Field(description="unfinished tasks")
    dead_letters: int = Field(description="tasks that were given up and are kept")


class TopRates(Output):
    """Tasks a second; null where counting began anew meanwhile."""

    submitted: float | None = Field(description="accepted")
    completed: float | None = Field(description="completed")
    failed: float | None = Field(description="failed, all attempts used up")
    abandoned: float | None = Field(description="cancelled")


class TopAgent(Output):
    """A distributor, or one of its workers."""

    id: str = Field(description="its id")
    role: Literal["distributor", "worker"] = Field(description="what it is")
    distributor: str | None = Field(description="of a worker: whose it is")
    state: str = Field(description="idle, busy, up, draining, suspect, recovering, error or down")
    queued: int | None = Field(description="of a distributor: tasks that wait for a worker")
    waiting: int | None = Field(description="of a distributor: tasks that wait for an answer")
    held: int | None = Field(description="tasks at workers")
    running: int | None = Field(description="of these, such that run")
    slots_taken: int | None = Field(description="slots that are in use")
    slots: int | None = Field(description="slots: tasks in child processes that can run at a time")
    done_per_s: float | None = Field(description="runs that completed, a second")
    failed_per_s: float | None = Field(description="runs that failed, a second")
    run_s: float | None = Field(description="mean seconds at work, of runs that ended meanwhile; null: none did")
    stay_s: float | None = Field(description="mean seconds from dispatch to report, of the same")


class TopOutput(Output):
    """``a2actl top``: one object for each measurement."""

    time: str = Field(description="the coordinator's clock")
    interval_s: float | None = Field(description="seconds over which rates were counted")
    coordinator: TopCoordinator = Field(description="who answered")
    standbys: list[str] = Field(description="coordinators that stand by")
    store: str = Field(description="available, spooling, or away: WHY")
    tasks: dict[Status, int] = Field(description="number by status; ended ones since this coordinator's start")
    rates: TopRates = Field(description="of the whole fleet")
    agents: list[TopAgent] = Field(description="each distributor, followed by its workers")


# ---------------------------------------------------------------- tasks


class Task(Output):
    """A task's record. ``metadata`` is described in docs/messages.md; its members depend on what happened."""

    task_id: str = Field(description="its id")
    task_type: str = Field(description="its type")
    status: Status = Field("pending", description="where it stands")
    created_at: str | None = Field(None, description="when it was accepted")
    updated_at: str | None = Field(None, description="when this was written")
    started_at: str | None = Field(None, description="when its last attempt began")
    completed_at: str | None = Field(None, description="when it ended")
    error: str | None = Field(None, description="why it failed")
    retry_count: int = Field(0, description="attempts that failed")
    metadata: Json = Field({}, description="attempt, worker, distributor, client, labels, interrupts …")


class WholeTask(Task):
    """A task's record with what went in and came out."""

    payload: Json | None = Field(None, description="what was submitted, as far as it is kept")
    result: Any = Field(None, description="what its handler returned")


class TasksOutput(Output):
    """``a2actl tasks``."""

    tasks: list[Task] = Field(description="without payloads and results")
    total: int = Field(description="how many match, as far as that is known")
    partial: bool = Field(description="not every task was looked at: more may match")
    since: str | None = Field(None, description="total counts what ended since then")


class TaskOutput(Output):
    """``a2actl task``."""

    task: WholeTask = Field(description="all that is recorded")


class ExplainOutput(Output):
    """``a2actl explain``; its members are described in docs/messages.md."""

    task_id: str = Field(description="the task")
    status: Status | None = Field(None, description="where it stands")
    task: Task = Field(description="its record")
    state: str = Field(description="accepted, inbox, placed, queued, sent, moving or ended")
    coordinator: Json = Field(description="who leads, with which lease and fence")
    distributor: Json | None = Field(None, description="who has the task, and what it says of it")
    places: dict[str, list[str]] = Field(description="where in the store it is found")
    attempts: list[Json] = Field(description="those that failed")
    hops: list[list[Any]] = Field(description="[name, time, detail] of each step")
    why: list[str] = Field(description="why it does not run (yet)")
    events: list[list[Any]] = Field(description="[time, task id, name, detail] of its history")
    lines: list[str] = Field(description="the same in sentences")


class HistoryEvent(Output):
    """Something that happened."""

    time: str = Field(description="when")
    task_id: str = Field(description='to which task; "" if to none')
    event: str = Field(description="what")
    detail: Json = Field(description="with whom, how, why")


class HistoryOutput(Output):
    """``a2actl history``."""

    events: list[HistoryEvent] = Field(description="newest first")


class Question(Output):
    """What a graph asks."""

    id: str = Field(description="for resume --interrupt")
    value: Any = Field(None, description="the question")


class ResultOutput(Output):
    """``a2actl result``, and ``resume --wait``."""

    task_id: str = Field(description="the task")
    status: Status = Field(description="how it ended, or waiting")
    result: Any = Field(description="what its handler returned")
    error: str | None = Field(description="why it failed")
    interrupts: list[Question] | None = Field(None, description="of one that waits: what it asks")


class SubmitOutput(Output):
    """``a2actl submit``: with ``--wait`` counts and results, without it ids."""

    submitted: int = Field(description="tasks")
    elapsed_s: float = Field(description="seconds that it took")
    task_ids: list[str] | None = Field(None, description="their ids")
    completed: int | None = Field(None, description="so many completed")
    failed: int | None = Field(None, description="so many did not")
    waiting: int | None = Field(None, description="so many ask something")
    results: list[ResultOutput] | None = Field(None, description="of each task, in order")


class CancelOutput(Output):
    """``a2actl cancel``: ids by outcome."""

    cancelled: list[str] = Field([], description="have ended")
    requested: list[str] = Field([], description="are being cancelled, by whoever has them")
    terminal: list[str] = Field([], description="had ended before")
    unknown: list[str] = Field([], description="are not known")


class RetryOutput(Output):
    """``a2actl retry``."""

    retried: list[str] = Field([], description="run again")
    refused: list[list[str]] = Field([], description="[id, why]")


# ---------------------------------------------------------------- operating


class Finding(Output):
    """What is not as it should be in the state; see docs/state.md."""

    kind: str = Field(description="what kind of inconsistency")
    task_id: str = Field("", description="of which task")
    section: str = Field("", description="where")
    what: str = Field("", description="in words")
    repair: str = Field("", description='what would mend it; "": nothing that is certainly right')
    repaired: bool = Field(False, description="it was mended")


class CheckResult(Output):
    """One check."""

    name: str = Field(description="what was looked at")
    ok: bool = Field(description="it works; with a fix it could be better")
    text: str = Field(description="what was found")
    fix: str = Field(description='what would mend it, ""')
    findings: list[Finding] = Field(description="of the check state: each inconsistency")


class DoctorOutput(Output):
    """``a2actl doctor``."""

    ok: bool = Field(description="nothing is wrong")
    checks: list[CheckResult] = Field(description="all that was looked at")


class SettingFinding(Output):
    """A mistake in settings; what is empty is left out."""

    level: str = Field(description="error (the program would end) or warning")
    source: str = Field(description="a file, environment, or command line")
    line: int | None = Field(None, description="of the file")
    setting: str | None = Field(None, description="as it is written there")
    problem: str = Field(description="in words")
    allowed: str | None = Field(None, description="what it may be")
    suggestion: str | None = Field(None, description="what was probably meant, or what to do")


class ConfigCheckOutput(Output):
    """``a2actl config check``."""

    ok: bool = Field(description="there is no error")
    programs: list[str] = Field(description="whose settings were looked at")
    files: list[str] = Field(description="that were read")
    findings: list[SettingFinding] = Field(description="errors first")


class DrainOutput(Output):
    """``a2actl drain``."""

    draining: bool = Field(description="it does as it was told")
    message: str | None = Field(None, description="in words")
    left: bool | None = Field(None, description="with --wait: it has left")


class FailoverOutput(Output):
    """``a2actl failover``."""

    moving: int = Field(description="tasks that go to others")
    stay: int = Field(description="tasks that no other distributor can run")
    message: str = Field(description="in words")


class Key(Output):
    """An agent of the fleet."""

    agent: str = Field(description="its name")
    role: str = Field(description="coordinator, distributor, worker, client or operator")
    key_ids: list[str] = Field(description="its keys, newest first")
    secret_here: bool = Field(description="its secret key is in this directory")
    revoked: bool = Field(description="it is shut out")


class KeysListOutput(Output):
    """``a2actl keys list``."""

    key_dir: str = Field(description="where")
    agents: list[Key] = Field(description="everybody who is or was in the fleet")


OUTPUTS: Final[dict[str, type[Output]]] = {
    "status": StatusOutput,
    "top": TopOutput,
    "tasks": TasksOutput,
    "task": TaskOutput,
    "explain": ExplainOutput,
    "history": HistoryOutput,
    "doctor": DoctorOutput,
    "config check": ConfigCheckOutput,
    "keys list": KeysListOutput,
    "submit": SubmitOutput,
    "result": ResultOutput,
    "cancel": CancelOutput,
    "retry": RetryOutput,
    "drain": DrainOutput,
    "failover": FailoverOutput,
}
