"""Models of LangChain's whose every request goes through a gate.

A model stays what ``init_chat_model`` made: its class is replaced by a subclass that has the same name and overrides
what sends requests, so tools, structured output, streaming and whatever else an integration offers work as always.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import new_class
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import ConfigError
from a2a_zmq.llm.budget import Budget, Connection
from a2a_zmq.llm.calls import Call
from a2a_zmq.llm.gate import Gate
from a2a_zmq.llm.providers import Provider, read_providers
from a2a_zmq.llm.usage import of_chunk, of_result

PROVIDERS_VARIABLE = "A2A_LLM_PROVIDERS"


class Models:
    """The models of a process."""

    def __init__(
        self,
        providers: Mapping[str, Any],
        redis_url: str = "",
        connection: Mapping[str, Any] | None = None,
        on_call: Callable[[Call], None] | None = None,
    ) -> None:
        """
        Raises:
            ConfigError: something in the providers is wrong.
        """
        self._providers = read_providers(providers)
        self._connection = Connection(redis_url, connection) if redis_url else None
        self._on_call = on_call
        self._gates: dict[str, Gate] = {}
        self._made: dict[str, BaseChatModel] = {}
        self._lock = threading.RLock()

    def get(self, name: str, options: Mapping[str, Any]) -> BaseChatModel:
        """
        Raises:
            ConfigError: there is none of that name, or it cannot be made.
        """
        provider = self._providers.get(name)
        if provider is None:
            known = ", ".join(sorted(self._providers)) or "none"
            raise ConfigError(f"llm_providers: there is no provider {name!r} (known: {known})")
        with self._lock:
            if not options and name in self._made:
                return self._made[name]
            if name not in self._gates:
                self._gates[name] = Gate(provider, Budget(name, provider, self._connection), self._on_call)
            model = gated(_make(name, provider, options), self._gates[name])
            if not options:
                self._made[name] = model
            return model

    def change(self, providers: Mapping[str, Any]) -> None:
        """Other providers from now on. Models that were made stay; their budgets, waits and retries are those that the
        provider of their name has now.

        Raises:
            ConfigError: something in the providers is wrong; nothing is changed.
        """
        new = read_providers(providers)
        with self._lock:
            for name, gate in self._gates.items():
                if name in new:
                    gate.change(new[name])
            same = [name for name in self._made if name in new and new[name].makes_what(self._providers[name])]
            self._made = {name: self._made[name] for name in same}
            self._providers = new

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def from_environment() -> Models:
    """What a process outside of the fleet has: the file of ``A2A_LLM_PROVIDERS``, and Redis where ``REDIS_*`` says.

    Raises:
        ConfigError: there is no such variable, or something in the file is wrong.
    """
    file = os.environ.get(PROVIDERS_VARIABLE, "")
    if not file:
        raise ConfigError(
            f"no chat models are configured: set llm_providers of the worker, or {PROVIDERS_VARIABLE}, "
            "or call a2a_zmq.llm.configure()"
        )
    env = os.environ
    given = {
        "host": env.get("REDIS_HOST") or "127.0.0.1",
        "port": env.get("REDIS_PORT") or 6379,
        "db": env.get("REDIS_DB") or 0,
        "username": env.get("A2A_REDIS_USERNAME"),
        "password": env.get("REDIS_PASSWORD"),
        "use_tls": env.get("REDIS_USE_TLS") or False,
        "ca_path": env.get("A2A_REDIS_CA_PATH") or None,
        "cert_path": env.get("A2A_REDIS_CERT_PATH") or None,
        "key_path": env.get("A2A_REDIS_KEY_PATH") or None,
    }
    try:
        redis = RedisConfig.model_validate(given)
    except ValueError:
        raise ConfigError(
            "REDIS_HOST, REDIS_PORT, REDIS_DB, REDIS_USE_TLS, A2A_REDIS_CERT_PATH with A2A_REDIS_KEY_PATH: "
            "one of them has a wrong form"
        ) from None
    return Models(read_providers(file), redis.url(), redis.tls_options())


def _make(name: str, provider: Provider, options: Mapping[str, Any]) -> BaseChatModel:
    try:
        from langchain.chat_models import init_chat_model
    except ImportError:
        raise ConfigError("chat models need the extra a2a-zmq[llm]: pip install 'a2a-zmq[llm]'") from None
    wanted: dict[str, Any] = {**provider.options, **options}
    if provider.model_provider:
        wanted["model_provider"] = provider.model_provider
    if provider.base_url:
        wanted["base_url"] = provider.base_url
    key = provider.api_key(name)
    if key is not None:
        wanted["api_key"] = key
    try:
        make: Callable[..., BaseChatModel] = init_chat_model
        model = make(provider.model, **wanted)
        # Ours to do: repeating (or a 429 would not be heard of), and having usage told in streams.
        ours = {"max_retries": 0, "stream_usage": True}
        missing = {
            field: value for field, value in ours.items() if field not in wanted and field in type(model).model_fields
        }
        return make(provider.model, **wanted, **missing) if missing else model
    except (ImportError, ValueError, TypeError) as error:
        raise ConfigError(f"llm_providers.{name}: {' '.join(str(error).split())[:300]}") from error
    except Exception as error:  # each integration has errors of its own for a key that is missing
        raise ConfigError(
            f"llm_providers.{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def gated(model: BaseChatModel, gate: Gate) -> BaseChatModel:
    """The same model, with every request going through the gate."""
    object.__setattr__(model, "__class__", _gated_class(type(model), gate))
    return model


@functools.lru_cache(maxsize=256)
def _gated_class(made: type[BaseChatModel], gate: Gate) -> type[BaseChatModel]:
    """Only what the class itself has is overridden: LangChain looks at that to know what a model can do, and what it
    puts in place of the rest ends in one of these."""
    members: dict[str, Any] = {
        "__module__": made.__module__,
        "__qualname__": made.__qualname__,
        "_generate": _generate(made, gate),
    }
    if made._agenerate is not BaseChatModel._agenerate:
        members["_agenerate"] = _agenerate(made, gate)
    if made._stream is not BaseChatModel._stream:
        members["_stream"] = _stream(made, gate)
    if made._astream is not BaseChatModel._astream:
        members["_astream"] = _astream(made, gate)
    return cast("type[BaseChatModel]", new_class(made.__name__, (made,), exec_body=lambda body: body.update(members)))


def _wanted(model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a request asks for, with the bound on answers that the model has by itself."""
    bound = getattr(model, "max_tokens", None)
    return {**({"max_tokens": bound} if bound else {}), **options}


def _generate(made: type[BaseChatModel], gate: Gate) -> Any:
    @functools.wraps(made._generate)
    def generate(self: Any, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        def send() -> ChatResult:
            return made._generate(self, messages, *args, **kwargs)

        return send() if gate.inside else gate.generate(send, messages, _wanted(self, kwargs), of_result)

    return generate


def _agenerate(made: type[BaseChatModel], gate: Gate) -> Any:
    @functools.wraps(made._agenerate)
    async def agenerate(self: Any, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        async def send() -> ChatResult:
            return await made._agenerate(self, messages, *args, **kwargs)

        return await (send() if gate.inside else gate.agenerate(send, messages, _wanted(self, kwargs), of_result))

    return agenerate


def _stream(made: type[BaseChatModel], gate: Gate) -> Any:
    @functools.wraps(made._stream)
    def stream(self: Any, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        def send() -> Iterator[ChatGenerationChunk]:
            return made._stream(self, messages, *args, **kwargs)

        return send() if gate.inside else gate.stream(send, messages, _wanted(self, kwargs), of_chunk)

    return stream


def _astream(made: type[BaseChatModel], gate: Gate) -> Any:
    @functools.wraps(made._astream)
    def astream(
        self: Any, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        def send() -> AsyncIterator[ChatGenerationChunk]:
            return made._astream(self, messages, *args, **kwargs)

        return send() if gate.inside else gate.astream(send, messages, _wanted(self, kwargs), of_chunk)

    return astream
