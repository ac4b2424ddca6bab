"""Nodes of the user's in the supervision graph, where they can hold up nothing: in a thread with an event loop.

What a node wants of the agent (a built-in step, its local state, a log line) is done in the agent's own loop, while the
node waits. One that blocks keeps its thread, and until that ends each run of the graph falls back to the plain steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from a2a_zmq.errors import ConfigError
from daemons.runtime.contract import SUPERVISION_STEPS, Log
from daemons.runtime.modules import load_module
from daemons.runtime.supervision import Supervision, tracing_off

T = TypeVar("T")
Node = Callable[[dict[str, Any], "NodeContext"], Any]
SETTING: Final = "supervision_nodes"


class NodeContext:
    """What a node may ask of its agent; each call returns when it is done."""

    def __init__(self, node: str, supervision: Supervision, loop: asyncio.AbstractEventLoop) -> None:
        self._node = node
        self._supervision = supervision
        self._loop = loop

    def step(self, name: str = "") -> bool:
        """Take a built-in step: the one that this node replaces, unless another one is named.

        Returns:
            whether there is something to recover, if it was ``detect``.
        """
        name = name or self._node
        if name not in SUPERVISION_STEPS:
            raise ValueError(f"{name!r} is no step; there are {', '.join(SUPERVISION_STEPS)}")
        return self._in_loop(lambda: self._supervision.step(name))

    def local_state(self) -> dict[str, Any]:
        """The agent's ``LocalAgentState`` as JSON: what its port shows as /state."""
        core, now = self._supervision.core, self._supervision.now
        found: dict[str, Any] = self._in_loop(lambda: core.local_state(now()).model_dump(mode="json"))
        return found

    def log(self, event: str, *, level: Literal["info", "warning", "error"] = "info", **fields: Any) -> None:
        """Write a line to the agent's log."""
        line = Log(level, event, {"node": self._node, **fields})
        self._in_loop(lambda: None if self._supervision.closed else self._supervision.effects.append(line))

    def _in_loop(self, what: Callable[[], T]) -> T:
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(what())
            except BaseException as error:  # it is the node that has to know
                done.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return done.result()


class OwnNodes:
    """The nodes that a setting names, as :func:`daemons.runtime.supervision.build_graph` takes them."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.steps = {name: self._wrapped(name, node) for name, node in nodes.items()}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._working = ""  # the node that has the thread

    @classmethod
    def load(cls, reference: str) -> OwnNodes | None:
        """Those of ``module:nodes`` or ``file.py:nodes``, a dict; None if the setting is empty.

        Raises:
            ConfigError: it cannot be imported, or is no dict of functions.
        """
        if not reference:
            return None
        name, _, variable = reference.rpartition(":")
        if not name or not variable.isidentifier():
            raise ConfigError(f"{SETTING}: {reference!r} is not module:nodes or file.py:nodes")
        if name.endswith(".py"):
            name = str(Path(name).expanduser().resolve())
        tracing_off()
        try:
            nodes = getattr(load_module(name), variable, None)
        except BaseException as error:  # sys.exit() in a module is a mistake like any other
            text = " ".join(str(error).split())
            raise ConfigError(f"{SETTING}: cannot use {reference}: {type(error).__name__}: {text}"[:300]) from error
        if not isinstance(nodes, dict) or not nodes:
            raise ConfigError(f"{SETTING}: {reference} is no dict of nodes")
        for node, function in nodes.items():
            if not (isinstance(node, str) and node.isidentifier() and callable(function)):
                raise ConfigError(f"{SETTING}: {node!r} of {reference} is no name with a function")
        # What the import left stays for ever; a full collection would visit it all each time.
        gc.freeze()
        return cls(nodes)

    async def close(self) -> None:
        """End the thread as soon as user code lets it."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _wrapped(self, name: str, node: Node) -> Callable[..., Any]:
        async def wrapped(state: dict[str, Any], runtime: Any) -> dict[str, Any]:
            if self._working:
                raise RuntimeError(f"node {self._working} is still at work for an earlier run")
            context = NodeContext(name, runtime.context, asyncio.get_running_loop())
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(self._call(name, node, dict(state), context), self._own_loop())
            )

        wrapped.__name__ = name
        return wrapped

    async def _call(self, name: str, node: Node, state: dict[str, Any], context: NodeContext) -> dict[str, Any]:
        self._working = name
        try:
            told = node(state, context)
            if hasattr(told, "__await__"):
                told = await told
        except (SystemExit, KeyboardInterrupt) as error:  # these would end the thread
            raise RuntimeError(f"node {name} raised {type(error).__name__}") from error
        finally:
            self._working = ""
        told = {} if told is None else told
        if not isinstance(told, dict) or told.keys() - {"found"} or not isinstance(told.get("found", False), bool):
            raise TypeError(f"node {name} returned {told!r:.100}, not None or {{'found': bool}}")
        return told

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._serve, args=(self._loop,), name="supervision nodes", daemon=True).start()
        return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.closing(loop):
            loop.run_forever()
