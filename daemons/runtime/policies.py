"""Asks a user's policy, a LangGraph graph, where it can hold up nothing: in a process of its own.

A core asks with a :class:`~daemons.runtime.consults.Consult`; the graph gets its facts as input, and what it decided
comes back as an event. One question is worked at a time. A run that is late is cancelled; where that is not possible
(code that blocks) the process is killed, as where it died, and another one is started: until that is ready each
question is answered ``busy`` at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import orjson

from a2a_zmq.errors import ConfigError
from daemons import logs
from daemons.runtime.consults import Consult, Consulted
from daemons.runtime.modules import child_environment
from daemons.runtime.policy_child import frame, hear

if TYPE_CHECKING:
    from daemons.runtime.launch import Daemon

# Importing LangGraph takes a second or two, on a busy host several times that; a user's modules as much again.
START_TIMEOUT_S: Final = 60.0
# A process that dies again and again is started no more often than this.
PAUSE_S: Final = 1.0
# It ends a run in time by itself, and says so; one that does not is killed so much later.
KILL_AFTER_S: Final = 0.25


class Process:
    """One process of the policy, from its start to its end."""

    def __init__(self, setting: str, reference: str) -> None:
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ours, theirs = socket.socketpair()
        command = (sys.executable, "-P", "-m", "daemons.runtime.policy_child", str(theirs.fileno()), str(os.getpid()))
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                (*command, setting, reference),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a policy prints
                pass_fds=(theirs.fileno(),),
                env=child_environment(),
                start_new_session=True,
            )
        finally:
            theirs.close()

    async def hear(self) -> dict[str, Any] | None:
        """What it says next; None if it ended."""
        if self._reader is None:
            self._reader, self._writer = await asyncio.open_unix_connection(sock=self._ours)
        return await hear(self._reader)

    def say(self, message: dict[str, Any]) -> None:
        assert self._writer is not None, "it has said that it is ready"
        self._writer.write(frame(orjson.dumps(message)))

    def kill(self) -> None:
        self._process.kill()

    async def end(self) -> str:
        """See that it is gone. Returns how it went."""
        self.kill()
        status = await asyncio.to_thread(self._process.wait)
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        else:
            self._ours.close()
        return f"status {status}" if status >= 0 else signal.Signals(-status).name


class PolicyRunner:
    """Asks one graph. :meth:`open` it inside the event loop that ``answered`` is to be called in.

    Attributes:
        answered: hears what became of each question.
    """

    def __init__(self, setting: str, reference: str) -> None:
        self.answered: Callable[[Consulted], None] = lambda _told: None
        self._setting = setting
        self._reference = reference
        self._loop = asyncio.get_running_loop()
        self._log = logs.get_logger("policy")
        self._process: Process | None = None
        self._started_at = 0.0
        self._asked: Consult | None = None
        self._alarm: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls, setting: str, reference: str, on_exit: list[Callable[[], Awaitable[None]]]
    ) -> PolicyRunner | None:
        """Start the policy that a setting names; None if it is empty.

        Args:
            on_exit: what is done when the daemon ends.

        Raises:
            ConfigError: it cannot be imported, or is no graph.
        """
        if not reference:
            return None
        runner = cls(setting, reference)
        runner._process = await runner._start()
        on_exit.append(runner.close)
        return runner

    def attach(self, daemon: Daemon) -> None:
        """Answer the questions of this daemon's core from now on."""
        self.answered = daemon.shell.event
        daemon.shell.advise = self.ask
        daemon.shell.services.append(self.keep)

    def ask(self, consult: Consult) -> None:
        """The answer comes later, in our event loop."""
        if self._process is None or self._asked is not None:
            why = "its process starts" if self._process is None else "it is still at work on an earlier question"
            self._loop.call_soon(self.answered, Consulted(consult.question_id, reason="busy", why=why))
            return
        self._asked = consult
        self._process.say({"facts": consult.facts, "answer": consult.answer, "timeout_s": consult.timeout_s})
        self._alarm = self._loop.call_later(consult.timeout_s + KILL_AFTER_S, self._process.kill)

    async def keep(self) -> None:
        """Hear the process, and start another one when it has ended; for as long as the daemon runs."""
        while True:
            process = self._process
            assert process is not None
            while (told := await process.hear()) is not None and not told.get("stuck"):
                self._tell(told.get("answer"), told.get("reason", ""), told.get("why", ""))
            self._process = None
            if told is not None:
                self._tell(None, told["reason"], told["why"])
            how = await process.end()
            blocked = told is not None or (self._alarm is not None and self._alarm.when() <= self._loop.time())
            why = "it blocked, so its process was killed" if blocked else f"its process ended: {how}"
            self._tell(None, "late" if blocked else "died", why)
            self._log.warning("policy_restarts", setting=self._setting, why=why)
            self._process = await self._another()

    async def close(self) -> None:
        """Leave a run where it is."""
        self._forget()
        if self._process is not None:
            process, self._process = self._process, None
            await process.end()

    def _tell(self, answer: Any, reason: str, why: str) -> None:
        consult = self._forget()
        if consult is not None:
            self.answered(Consulted(consult.question_id, answer, reason, why))

    def _forget(self) -> Consult | None:
        """The question that was open, which it is no more."""
        consult, self._asked = self._asked, None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        return consult

    async def _another(self) -> Process:
        while True:
            await asyncio.sleep(max(0.0, self._started_at + PAUSE_S - self._loop.time()))
            try:
                return await self._start()
            except (ConfigError, OSError) as error:  # its files may be mended, and memory be there again
                self._log.warning("policy_not_started", setting=self._setting, why=str(error))

    async def _start(self) -> Process:
        self._started_at = self._loop.time()
        process = Process(self._setting, self._reference)
        told: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                told = await process.hear()
        except TimeoutError:
            raise ConfigError(f"{self._setting}: importing {self._reference} took too long") from None
        finally:
            how = "" if told and "ready" in told else await process.end()
        if how:
            wrong = (told or {}).get("wrong") or f"{self._setting}: importing {self._reference} ended with {how}"
            raise ConfigError(wrong)
        return process
