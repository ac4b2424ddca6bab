"""What the settings say of providers of chat models."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from a2a_zmq.errors import ConfigError
from a2a_zmq.llm.keys import PROVIDER_NAME

# What has no part in making a model.
_LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrency",
    "expected_output_tokens",
    "max_wait_s",
    "retries",
)


class Provider(BaseModel):
    """One provider: a model, where it is, and what the fleet may ask of it.

    Attributes:
        model: as ``init_chat_model`` takes it: ``gpt-4.1-mini`` or ``openai:gpt-4.1-mini``.
        model_provider: LangChain's name of the integration, if the model does not say.
        base_url: where its API is; the integration's own default if empty.
        api_key_env, api_key_file: where its key is, an environment variable or a file; without either the integration
            looks where it always does (``OPENAI_API_KEY`` …).
        options: further arguments of the model: ``temperature``, ``max_tokens``, ``timeout`` …
        requests_per_minute, tokens_per_minute, concurrency: budgets of the whole fleet; none if left out.
        expected_output_tokens: reserved for an answer, until the model says how long it was.
        max_wait_s: longest wait of a call for its turn.
        retries: of a request that was refused or failed and may be repeated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = Field(min_length=1)
    model_provider: str = ""
    base_url: str = ""
    api_key_env: str = ""
    api_key_file: Path | None = None
    options: dict[str, Any] = {}
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    concurrency: int | None = Field(None, ge=1)
    expected_output_tokens: int = Field(500, ge=1)
    max_wait_s: float = Field(60.0, ge=0, le=3600)
    retries: int = Field(3, ge=0, le=20)

    @model_validator(mode="after")
    def _keys(self) -> Self:
        secret = [name for name in self.options if "key" in name.lower() or "secret" in name.lower()]
        if secret:
            raise ValueError(f"options.{secret[0]}: secrets go into api_key_env or api_key_file")
        if self.api_key_env and self.api_key_file:
            raise ValueError("api_key_env and api_key_file: one of them")
        return self

    def makes_what(self, other: Provider) -> bool:
        """Whether a model of the other one is as ours would be: only budgets, waits and retries may differ."""
        limits = {name: getattr(self, name) for name in _LIMITS}
        return other.model_copy(update=limits) == self

    @property
    def bounded(self) -> bool:
        """It has a budget."""
        return bool(self.requests_per_minute or self.tokens_per_minute or self.concurrency)

    def api_key(self, name: str) -> str | None:
        """The key, None if the integration looks for it itself.

        Raises:
            ConfigError: it is not there.
        """
        if self.api_key_env:
            key = os.environ.get(self.api_key_env, "").strip()
            if not key:
                raise ConfigError(f"llm_providers.{name}: api_key_env: {self.api_key_env} is not set")
            return key
        if self.api_key_file is None:
            return None
        try:
            key = self.api_key_file.expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "is no text"
            raise ConfigError(f"llm_providers.{name}: api_key_file: {self.api_key_file}: {why}") from None
        if not key:
            raise ConfigError(f"llm_providers.{name}: api_key_file: {self.api_key_file} is empty")
        return key


def _name(value: str) -> str:
    if PROVIDER_NAME.match(value) is None:
        raise ValueError("use up to 63 letters, digits and _ . - for a provider's name")
    return value


def _tables(value: Any) -> Any:
    """The tables of a TOML file, if it is a file's name."""
    if not isinstance(value, (str, Path)):
        return value
    try:
        return tomllib.loads(Path(value).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{value}: cannot be read: {error.strerror}") from None
    except (ValueError, RuntimeError) as error:  # not UTF-8, not TOML, no such home
        raise ValueError(f"{value}: not valid TOML: {error}") from None


_Tables = dict[Annotated[str, AfterValidator(_name)], Provider]
Providers = Annotated[_Tables, BeforeValidator(_tables, json_schema_input_type=str | _Tables)]
_adapter: TypeAdapter[dict[str, Provider]] = TypeAdapter(Providers)


def read_providers(value: Mapping[str, Any] | str | Path) -> dict[str, Provider]:
    """Tables by name, or a TOML file that has them.

    Raises:
        ConfigError: something in them is wrong; the text names it.
    """
    try:
        return _adapter.validate_python(value)
    except ValueError as error:
        raise ConfigError(f"llm_providers{complaint(error)}") from None


def complaint(error: Any) -> str:
    """The first complaint: ``.NAME.KEY: what is wrong``, without the value (it may be a key in the wrong place)."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = "".join(f".{part}" for part in first["loc"] if part != "[key]")
    unknown = first["type"] == "extra_forbidden"
    return f"{place}: {'unknown key' if unknown else first['msg'].removeprefix('Value error, ')}"
