"""What programs that submit work take from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from a2a_zmq.client.environment import client_settings
from a2a_zmq.errors import ConfigError


def test_clients_of_a_fleet_without_encryption_did_not_find_it() -> None:
    """They always spoke CURVE, whatever A2A_USE_MTLS said."""
    assert client_settings(environ={}).use_mtls
    assert client_settings(environ={"A2A_USE_MTLS": ""}).use_mtls
    assert not client_settings(environ={"A2A_USE_MTLS": "false"}).use_mtls
    with pytest.raises(ConfigError, match="A2A_USE_MTLS: 'perhaps'"):
        client_settings(environ={"A2A_USE_MTLS": "perhaps"})


def test_key_files_of_the_environment_are_used() -> None:
    environ = {"A2A_CERT_PATH": "/k/peers.json", "A2A_KEY_PATH": "/k/client.key", "A2A_TOKEN_SECRET": "x" * 16}
    found = client_settings(environ=environ)
    assert (found.cert_path, found.key_path) == (Path("/k/peers.json"), Path("/k/client.key"))
    assert found.token_secret == "", "key files go before a secret"
    with pytest.raises(ConfigError, match="go together"):
        client_settings(environ={"A2A_KEY_PATH": "/k/client.key"})


def test_keys_that_the_caller_names_go_before_those_of_the_environment() -> None:
    environ = {"A2A_CERT_PATH": "/k/peers.json", "A2A_KEY_PATH": "/k/client.key"}
    named = client_settings(key_dir="/keys", environ=environ)
    assert (named.key_dir, named.key_path) == (Path("/keys"), None)
    secret = client_settings(token_secret="y" * 16, environ=environ)
    assert (secret.token_secret, secret.key_path) == ("y" * 16, None)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("addresses", 5550, "addresses must be a text or a list of texts, not 5550"),
        ("addresses", ["tcp://127.0.0.1:5550", 7], "addresses must be"),
        ("client_id", 7, "client_id must be a text, not int"),
        ("coordinator_id", 5, "coordinator_id must be a text"),
        ("token_secret", 5, "token_secret must be a text, not int"),
        ("key_dir", 5, "key_dir must be a path, not int"),
        ("otlp_endpoint", 5, "otlp_endpoint must be a text"),
        ("otlp_endpoint", "foo", "otlp_endpoint 'foo': expected the URL"),
        ("trace_sample_ratio", [1], "trace_sample_ratio"),
    ],
)
def test_an_argument_of_another_type_is_named(name: str, value: Any, words: str) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=words):
        client_settings(**arguments, environ={})
