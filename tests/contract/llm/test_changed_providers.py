"""Providers that change while a process runs: models that it has made follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from a2a_zmq.errors import ConfigError, ModelBusy
from a2a_zmq.llm.models import Models
from tests.openai_server import OpenAIServer


@contextmanager
def models_of(server: OpenAIServer, name: str, url: str, **bounds: Any) -> Iterator[Models]:
    models = Models({name: server.provider(**bounds)}, url)
    try:
        yield models
    finally:
        models.close()


def test_a_model_that_was_made_follows_its_providers_new_limits(
    server: OpenAIServer, provider: str, one_url: str
) -> None:
    with models_of(server, provider, one_url, requests_per_minute=1, max_wait_s=0) as models:
        model = models.get(provider, {})
        model.invoke("hi")
        with pytest.raises(ModelBusy):
            model.invoke("hi")
        models.change({provider: server.provider(requests_per_minute=100, max_wait_s=0)})
        model.invoke("hi")
        assert models.get(provider, {}) is model, "only limits changed"
        models.change({provider: server.provider(requests_per_minute=100, options={"temperature": 0})})
        assert models.get(provider, {}) is not model
        models.change({})
        with pytest.raises(ConfigError, match="known: none"):
            models.get(provider, {})


def test_providers_that_are_wrong_change_nothing(server: OpenAIServer, provider: str, one_url: str) -> None:
    with models_of(server, provider, one_url, requests_per_minute=100) as models:
        with pytest.raises(ConfigError, match="modle"):
            models.change({provider: {"model": "m", "modle": "x"}})
        assert models.get(provider, {}).invoke("hi").content is not None
