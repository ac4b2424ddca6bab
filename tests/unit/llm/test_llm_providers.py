"""Providers of chat models in the settings: what a mistake is told, and where keys come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.crc import key_slot

from a2a_zmq.errors import ConfigError
from a2a_zmq.llm import keys
from a2a_zmq.llm.providers import Provider, read_providers
from daemons.settings import WorkerSettings
from daemons.settings_sources import load
from daemons.worker.main import models_of


def toml(directory: Path, text: str, name: str = "worker.toml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_in_the_workers_file(tmp_path: Path) -> None:
    text = '[llm_providers.fast]\nmodel = "openai:tester"\nrequests_per_minute = 5\noptions = { temperature = 0 }\n'
    settings = load(WorkerSettings, config=toml(tmp_path, text), environ={}, directory=tmp_path)
    fast = settings.llm_providers["fast"]
    assert (fast.model, fast.requests_per_minute, fast.options) == ("openai:tester", 5, {"temperature": 0})
    assert fast.bounded


def test_a_file_of_tables_by_the_environment(tmp_path: Path) -> None:
    path = toml(tmp_path, '[fast]\nmodel = "openai:tester"\n', "providers.toml")
    settings = load(WorkerSettings, environ={"A2A_LLM_PROVIDERS": str(path)}, directory=tmp_path)
    assert settings.llm_providers == {"fast": Provider(model="openai:tester")}
    assert not settings.llm_providers["fast"].bounded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[fast]\nmodel = "m"\nrequests = 5\n', "fast.requests: unknown key"),
        ("[fast]\nrequests_per_minute = 5\n", ": fast.model: "),
        ('[fast]\nmodel = "m"\nconcurrency = 0\n', ": fast.concurrency: "),
        ('[fast]\nmodel = "m"\nmax_wait_s = "long"\n', ": fast.max_wait_s: "),
        ('["a b"]\nmodel = "m"\n', "letters, digits"),
        ('[fast]\nmodel = "m"\napi_key = "sk-123"\n', "fast.api_key: unknown key"),
        ('[fast]\nmodel = "m"\noptions = { api_key = "sk-123" }\n', "api_key_env or api_key_file"),
        ('[fast]\nmodel = "m"\napi_key_env = "A"\napi_key_file = "/sk-123"\n', "one of them"),
        ('fast = "m"\n', ": fast: "),
        ("[fast\n", "not valid TOML"),
    ],
)
def test_a_mistake_is_named_and_no_key_is_shown(tmp_path: Path, text: str, words: str) -> None:
    path = toml(tmp_path, text, "providers.toml")
    with pytest.raises(ConfigError) as caught:
        load(WorkerSettings, environ={"A2A_LLM_PROVIDERS": str(path)}, directory=tmp_path)
    said = str(caught.value)
    assert said.startswith("A2A_LLM_PROVIDERS in the environment")
    assert words in said
    assert "\n" not in said
    assert "sk-123" not in said
    with pytest.raises(ConfigError, match="llm_providers"):
        read_providers(path)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(WorkerSettings, environ={"A2A_LLM_PROVIDERS": str(tmp_path / "none.toml")}, directory=tmp_path)


def test_keys_come_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " sk-1\n")
    assert Provider(model="m", api_key_env="MY_KEY").api_key("fast") == "sk-1"
    file = toml(tmp_path, "sk-2\n", "key")
    assert Provider(model="m", api_key_file=file).api_key("fast") == "sk-2"
    assert Provider(model="m").api_key("fast") is None, "the integration looks for it itself"
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match=r"llm_providers\.fast: api_key_env: MY_KEY is not set"):
        Provider(model="m", api_key_env="MY_KEY").api_key("fast")
    file.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="is empty"):
        Provider(model="m", api_key_file=file).api_key("fast")


def test_a_worker_whose_key_file_is_missing_does_not_start(tmp_path: Path) -> None:
    tables = {"fast": {"model": "m", "api_key_file": str(tmp_path / "key")}}
    settings = WorkerSettings.model_validate({"llm_providers": tables})
    with pytest.raises(ConfigError, match=r"llm_providers\.fast: api_key_file: .*key: No such file"):
        models_of(settings)


def test_what_children_are_told_has_no_keys(tmp_path: Path) -> None:
    file = toml(tmp_path, "sk-2\n", "key")
    tables = {"fast": {"model": "m", "api_key_file": str(file), "requests_per_minute": 3}}
    told = models_of(WorkerSettings.model_validate({"llm_providers": tables}))
    assert told is not None
    assert "sk-2" not in str(told)
    assert read_providers(told["providers"])["fast"].requests_per_minute == 3
    assert models_of(WorkerSettings()) is None


def test_all_keys_of_a_provider_are_in_one_slot_and_in_the_documentation(repository: Path) -> None:
    names = keys.of_provider("fast")
    assert names == tuple(f"{{llm:fast}}:{kind}" for kind in ("window", "running", "queue", "calls", "pause"))
    assert len({key_slot(name.encode()) for name in names}) == 1
    text = (repository / "docs" / "state.md").read_text(encoding="utf-8")
    for kind in keys.KEY_CLASSES:
        assert f"`{kind.pattern.replace('TAG', '{llm:PROVIDER}')}` | {kind.redis_type} |" in text


def test_only_limits_may_differ_for_a_model_to_stay() -> None:
    provider = Provider(model="m", requests_per_minute=3, base_url="http://here")
    for limit in ("requests_per_minute", "tokens_per_minute", "concurrency", "expected_output_tokens", "retries"):
        assert provider.model_copy(update={limit: 7}).makes_what(provider), limit
    for other in ({"model": "n"}, {"base_url": "http://there"}, {"options": {"temperature": 0}}, {"api_key_env": "K"}):
        assert not provider.model_copy(update=other).makes_what(provider), other
