"""What is taken out of logs and spans, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemons import redaction


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known: set[str] = set()
    monkeypatch.setattr(redaction, "_known", known)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("redis://user:hunter2@host:6379/0 is away", "redis://user:***@host:6379/0 is away"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: ***"),
        ("{'Authorization': 'Basic aHVudGVyMg=='}", "{'Authorization': '***'}"),
        ("authorization=hunter2", "authorization=***"),
        ("x-api-key: hunter2", "x-api-key: ***"),
        ("Set-Cookie: session=hunter2; Path=/", "Set-Cookie: ***; Path=/"),
        ("sent Bearer hunter2hunter2 to it", "sent Bearer *** to it"),
        ("eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ3In0.aHVudGVyMg", "***"),
        ("the key sk-proj-hunter2hunter2hunter2 is bad", "the key *** is bad"),
        ("ghp_hunter2hunter2hunter2hunter2", "***"),
        ("password=hunter2, n=1", "password=***, n=1"),
        ("password: hunter2", "password: ***"),
        ('{"password": "hunter 2", "n": 1}', '{"password": "***", "n": 1}'),
        ("{'api_key': 'hunter2'}", "{'api_key': '***'}"),
        ("token=hunter2&n=1", "token=***"),
        ("token: hunter2hunter2hunter2", "token: ***"),
        ("hmac_key=hunter2", "hmac_key=***"),
        ('secret-key = "hunter2"', 'secret-key = "***"'),
        ("curve_key='hunter2'", "curve_key='***'"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\nrest", "***\nrest"),
        ("-----BEGIN EC PRIVATE KEY-----\nhunter2", "***"),
    ],
)
def test_texts_that_hold_secrets(text: str, clean: str) -> None:
    assert redaction.text(text) == clean
    assert "hunter2" not in redaction.text(text)


@pytest.mark.parametrize(
    "text",
    [
        "token: expired",
        "the secret: nobody knows",
        "key_id=k-3",
        "input_tokens=12",
        "tcp://127.0.0.1:5550 cannot be bound",
        "http://host:4318/v1/traces",
        "no key of 'worker-1' in /var/lib/a2a-zmq/keys",
        "authorised by a table",
    ],
)
def test_texts_that_hold_none_stay(text: str) -> None:
    assert redaction.text(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "redis_password",
        "dbPassword",
        "PASSWD",
        "passphrase",
        "token",
        "token_secret",
        "access_tokens",
        "api_key",
        "apiKey",
        "X-Api-Key",
        "hmac_key",
        "curve_secret_key",
        "session_key",
        "pair-key",
        "private_key",
        "Authorization",
        "Cookie",
        "credentials",
    ],
)
def test_names_of_secrets(name: str) -> None:
    value: Any = {"outer": [{name: "hunter2", "n": 1}], "deep": ({name: ["hunter2"]},)}
    assert redaction.clean(value) == {"outer": [{name: "***", "n": 1}], "deep": [{name: "***"}]}


@pytest.mark.parametrize(
    "name", ["key_id", "token_errors", "public_key", "curve_public_key", "task_id", "monkey", "secretary", "tokenizer"]
)
def test_names_of_public_things(name: str) -> None:
    assert redaction.clean({name: "visible"}) == {name: "visible"}


def test_numbers_of_tokens_are_none() -> None:
    assert redaction.clean({"tokens": 12, "token": None, "password": 123456}) == {
        "tokens": 12,
        "token": None,
        "password": "***",
    }


def test_exceptions_bytes_and_objects_become_clean_texts() -> None:
    found = redaction.clean(
        {"error": ValueError("password=hunter2"), "frame": b"hunter2", "path": Path("/a/b"), "many": {"hunter2hunter2"}}
    )
    assert found == {
        "error": "ValueError: password=***",
        "frame": "(7 bytes)",
        "path": "/a/b",
        "many": ["hunter2hunter2"],
    }


def test_a_value_that_contains_itself_ends() -> None:
    loop: dict[str, Any] = {"password": "hunter2"}
    loop["again"] = loop
    assert "hunter2" not in str(redaction.clean(loop))


def test_what_the_process_knows_to_be_secret_is_taken_out_wherever_it_stands() -> None:
    redaction.hide(["ordinary/words", None, "", "short"])
    assert redaction.text("it said ordinary/words, or ordinary%2Fwords") == "it said ***, or ***"
    assert redaction.text("short") == "short", "it would be found everywhere"


def test_the_time_it_takes_grows_with_the_text_only() -> None:
    for piece in ("a", "a-", "password", "a://", "-----BEGIN PRIVATE KEY-----", "eyJ", "Bearer ", "authorization "):
        redaction.text(piece * 20_000)
