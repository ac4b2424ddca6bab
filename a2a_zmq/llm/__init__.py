"""Chat models by name, for graphs and handlers: metered, and within budgets that the whole fleet shares.

::

    from a2a_zmq.llm import chat_model

    answer = await chat_model("fast").ainvoke("Why is the sky blue?")

Names and budgets are the workers' setting ``llm_providers``; a process of its own names the same file in
``A2A_LLM_PROVIDERS``. See ``docs/models.md``. Needs the extra ``a2a-zmq[llm]``. LangChain is loaded by the first model
that is made, so importing this costs next to nothing.
"""

from __future__ import annotations

from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from langchain_core.language_models import BaseChatModel

    from a2a_zmq.llm.calls import Call
    from a2a_zmq.llm.models import Models

__all__ = ["chat_model", "configure"]


class _Process:
    """What this process was told."""

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.told: tuple[dict[str, Any], str, Mapping[str, Any] | None, Callable[[Call], None] | None] | None = None
        self.models: Models | None = None


_process = _Process()


def chat_model(name: str, **options: Any) -> BaseChatModel:
    """A model of LangChain's, as ``init_chat_model`` makes it.

    Each of its calls, however it is made (``invoke``, ``astream``, ``bind_tools(…)``, ``with_structured_output(…)``),
    waits for its turn within the provider's budget, and its tokens are counted.

    Args:
        name: of a provider in the settings.
        options: for ``init_chat_model``, before those of the settings.

    Raises:
        ConfigError: there is no provider of that name, or it cannot be used; the text says why.
    """
    with _process.lock:
        if _process.models is None:
            from a2a_zmq.llm.models import Models, from_environment

            _process.models = from_environment() if _process.told is None else Models(*_process.told)
        models = _process.models
    return models.get(name, options)


def configure(
    providers: dict[str, Any],
    redis_url: str = "",
    *,
    connection: Mapping[str, Any] | None = None,
    on_call: Callable[[Call], None] | None = None,
) -> None:
    """Tell this process its providers; workers do so for what they run, and again when their settings change.

    Models that were made before keep what they are. Where budgets are kept in the same place, they follow the budgets,
    waits and retries that their provider has now.

    Args:
        providers: name → table, as in the settings.
        redis_url: where budgets are kept; without it providers may have none.
        connection: further arguments of redis-py's connections to it (``ssl_ca_certs`` …).
        on_call: gets each call that has ended, in any thread.
    """
    with _process.lock:
        before, _process.told = _process.told, (providers, redis_url, connection, on_call)
        if _process.models is not None and before is not None and before[1:] == _process.told[1:]:
            _process.models.change(providers)
        else:
            _process.models = None
