"""Tasks that are wrong, and handlers that misbehave: each is told in one line, and nothing else suffers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq import FleetClient, RequestRefused, TaskFailed
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import PATIENCE_S, a2actl, complaints, one_line, runs


@pytest.fixture(autouse=True)
def the_fleet_is_unharmed(fleet: LocalFleet, client: FleetClient) -> Iterator[None]:
    """After each of these the same daemons work on, with all their slots."""
    before = fleet.pids
    yield
    values = client.map("in-process", [{}] * 8)
    assert len(list(values)) == 8
    assert fleet.pids == before
    assert complaints(fleet) == []


def failure(client: FleetClient, task_type: str, payload: dict[str, Any], **options: Any) -> TaskFailed:
    handle = client.submit(task_type, payload, **options)
    with pytest.raises(TaskFailed) as failed:
        handle.result(PATIENCE_S)
    assert "\n" not in failed.value.error
    assert handle.record is not None
    assert handle.record["status"] == "failed"
    return failed.value


# ---------------------------------------------------------------- submissions


def test_an_unknown_task_type_is_refused_at_once(fleet: LocalFleet, client: FleetClient) -> None:
    with pytest.raises(RequestRefused, match="wash-dishes") as refused:
        client.submit("wash-dishes", {})
    assert refused.value.code == "UNKNOWN_TASK_TYPE"
    done = a2actl(fleet, "submit", "wash-dishes")
    assert done.returncode == 1
    assert "wash-dishes" in one_line(done, "a2actl")


def test_a_payload_that_is_too_large_is_refused(fleet: LocalFleet, client: FleetClient, tmp_path: Path) -> None:
    with pytest.raises(RequestRefused) as refused:
        client.submit("noop", {"text": "x" * 300_000})
    assert refused.value.code == "PAYLOAD_TOO_LARGE"
    assert re.search(r"\d{6} bytes", refused.value.message)
    with pytest.raises(RequestRefused) as refused:
        client.submit("noop", {"text": "x" * 3_000_000})
    assert refused.value.code == "PAYLOAD_TOO_LARGE"
    # Those beside it are taken.
    outcomes = list(client.map("noop", [{"n": 1}, {"text": "x" * 300_000}, {"n": 3}], return_exceptions=True))
    assert (outcomes[0], outcomes[2]) == ({"n": 1}, {"n": 3})
    assert isinstance(outcomes[1], RequestRefused)
    file = tmp_path / "large.jsonl"
    file.write_text('{"payload": {"text": "%s"}}\n' % ("x" * 300_000))
    done = a2actl(fleet, "submit", "noop", "--file", str(file))
    assert done.returncode == 1
    assert "PAYLOAD_TOO_LARGE" in one_line(done, "a2actl")


def test_what_was_accepted_beside_what_was_refused_is_named(
    fleet: LocalFleet, client: FleetClient, tmp_path: Path
) -> None:
    with pytest.raises(RequestRefused) as refused:
        client.submit_many("noop", [{"n": 1}, {"text": "x" * 300_000}, {"n": 3}])
    assert len(refused.value.accepted) == 2
    assert [client.attach(task_id).result(PATIENCE_S) for task_id in refused.value.accepted] == [{"n": 1}, {"n": 3}]
    file = tmp_path / "mixed.jsonl"
    large = '{"payload": {"text": "%s"}}' % ("x" * 300_000)
    file.write_text(f'{large}\n{{"task_id": "beside-it"}}\n')
    done = a2actl(fleet, "submit", "noop", "--file", str(file))
    assert (done.returncode, done.stdout) == (1, "beside-it\n")
    assert "one task was accepted" in done.stderr
    assert "PAYLOAD_TOO_LARGE" in done.stderr
    done = a2actl(fleet, "submit", "noop", "--file", str(file), "--json")
    assert orjson.loads(done.stdout)["task_ids"] == ["beside-it"]
    # A line that is wrong is found before the first task is submitted.
    file.write_text('{"task_id": "too-early"}\n{"payload": 1}\n')
    done = a2actl(fleet, "submit", "noop", "--file", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert client.get("too-early") is None


def test_payloads_up_to_the_limit_go_through(client: FleetClient) -> None:
    payloads = [{"n": n, "text": "é" * 120_000} for n in range(12)]
    assert list(client.map("noop", payloads)) == payloads


@pytest.mark.parametrize("payload", [[1, 2], "text", None, {"x": {1, 2}}, {"x": float}, {1: object()}])
def test_a_payload_that_is_no_json_object_is_refused_by_the_client(client: FleetClient, payload: Any) -> None:
    with pytest.raises(RequestRefused) as refused:
        client.submit("noop", payload)
    assert refused.value.code == "INVALID_TASK"


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"max_attempts": 0},
        {"priority": "high"},
        {"priority": 10**30},
        {"task_id": "has blanks"},
        {"task_id": "x" * 200},
        {"task_id": ""},
        {"labels": {"gpu": 1}},
        {"labels": {"gpu": range(2)}},
        {"distributor": "no id"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(client: FleetClient, options: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as refused:
        client.submit("noop", {}, **options)
    assert refused.value.code == "INVALID_TASK"


@pytest.mark.parametrize("task_type", ["", "x" * 200, 7])
def test_wrong_task_types_are_refused(client: FleetClient, task_type: Any) -> None:
    with pytest.raises(RequestRefused) as refused:
        client.submit(task_type, {})
    assert refused.value.code in ("INVALID_TASK", "UNKNOWN_TASK_TYPE")


@pytest.mark.parametrize(
    "payload",
    [
        {"operation": "conquer"},
        {"operation": "sum", "numbers": ["1"]},
        {"operation": "product", "numbers": [2**62, 2**62]},
        {"operation": "mean"},
        {},
    ],
    ids=str,
)
def test_input_that_a_builtin_type_does_not_take_fails_once(client: FleetClient, payload: dict[str, Any]) -> None:
    failed = failure(client, "compute", payload, max_attempts=5)
    assert failed.kind == "invalid_input"
    record = client.get(failed.task_id)
    assert record is not None
    assert record["metadata"]["attempt"] == 1


def test_numbers_that_json_integers_cannot_carry(client: FleetClient) -> None:
    with pytest.raises(RequestRefused):
        client.submit("noop", {"n": 2**70})
    assert client.submit("noop", {"n": 2**63, "f": 1e300}).result(PATIENCE_S) == {"n": 2**63, "f": 1e300}


def test_a_deeply_nested_payload_is_refused_and_cuts_nobody_off(client: FleetClient) -> None:
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    with pytest.raises(RequestRefused) as refused:
        client.submit("noop", {"deep": deep})
    assert refused.value.code in ("INVALID_TASK", "PAYLOAD_TOO_LARGE", "MALFORMED")


def test_texts_that_are_no_unicode_are_refused(client: FleetClient) -> None:
    with pytest.raises(RequestRefused):
        client.submit("noop", {"text": "\ud800"})
    assert client.submit("noop", {"text": "\0 \u2028 😀"}).result(PATIENCE_S) == {"text": "\0 \u2028 😀"}


# ---------------------------------------------------------------- handlers


@pytest.mark.parametrize(
    ("task_type", "payload", "kind", "says"),
    [
        ("raises", {"text": "no paper\nno ink"}, "raised", "no paper"),
        ("invalid", {}, "invalid_input", "this payload will never do"),
        ("typed", {"name": "x", "count": "many"}, "invalid_input", "count"),
        ("exits", {}, "exited", "3"),
        ("dies", {}, "killed", "SIGKILL"),
        ("not-json", {}, "unserializable", "set"),
        ("not-json-async", {}, "unserializable", "object"),
        ("too-large", {"bytes": 300_000}, "unserializable", "300"),
    ],
)
def test_a_handler_that_fails_says_how(
    client: FleetClient, task_type: str, payload: dict[str, Any], kind: str, says: str
) -> None:
    failed = failure(client, task_type, payload, max_attempts=1)
    assert failed.kind == kind, failed.error
    assert says in failed.error, failed.error


@pytest.mark.parametrize("task_type", ["hangs", "deaf"])
def test_a_handler_that_hangs_is_ended_by_its_time_limit(client: FleetClient, task_type: str, ledger: Path) -> None:
    failed = failure(client, task_type, {"ledger": str(ledger)}, timeout_s=0.3, max_attempts=2)
    assert failed.kind == "timeout"
    assert [run.attempt for run in runs(ledger)] == [1, 2]


@pytest.mark.parametrize("task_type", ["exits", "dies", "raises"])
def test_what_may_go_better_the_next_time_is_tried_again(client: FleetClient, task_type: str, ledger: Path) -> None:
    failure(client, task_type, {"ledger": str(ledger)}, max_attempts=3)
    assert [run.attempt for run in runs(ledger)] == [1, 2, 3]


@pytest.mark.parametrize("task_type", ["invalid", "typed"])
def test_what_can_never_go_better_is_not_tried_again(client: FleetClient, task_type: str, ledger: Path) -> None:
    failed = failure(client, task_type, {"ledger": str(ledger)}, max_attempts=3)
    record = client.get(failed.task_id)
    assert record is not None
    assert (record["metadata"]["attempt"], record["retry_count"]) == (1, 1)


def test_the_command_line_tells_a_handlers_error_in_one_line(fleet: LocalFleet) -> None:
    arguments = ("--payload", '{"text": "first line\\nsecond line"}', "--max-attempts", "1", "--wait")
    done = a2actl(fleet, "submit", "raises", *arguments)
    assert done.returncode == 1
    assert "first line" in one_line(done, "a2actl")
