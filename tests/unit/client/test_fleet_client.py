"""The blocking client against the real protocol and sockets."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from a2a_zmq import FleetClient
from a2a_zmq.client.requests import TaskPage
from a2a_zmq.errors import (
    ConfigError,
    FleetUnavailable,
    RequestRefused,
    TaskCancelled,
    TaskFailed,
    TaskTimeout,
)
from a2a_zmq.transport.dealer import DealerSocket

WaitUntil = Callable[..., None]
pytestmark = pytest.mark.timeout(10)


@pytest.fixture
def fleet(arguments: dict[str, Any]) -> Iterator[FleetClient]:
    with FleetClient(**arguments, request_timeout_s=5, unavailable_after_s=2) as client:
        yield client


def test_submit_and_result(fleet: FleetClient, coordinator: Any) -> None:
    handle = fleet.submit("noop", {"a": [1, "ä", None]}, priority=2, timeout_s=3)
    assert handle.task_id in coordinator.tasks
    assert coordinator.tasks[handle.task_id]["metadata"] == {"priority": 2, "timeout_s": 3}
    assert handle.result(timeout=5) == {"a": [1, "ä", None]}
    assert handle.done()
    assert handle.record is not None
    assert handle.record["metadata"]["worker"] == "worker-1"
    assert handle.status() == "completed"


@pytest.mark.parametrize("name", ["request_timeout_s", "unavailable_after_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "5", True])
def test_a_client_cannot_be_told_to_wait_for_nothing(arguments: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a number of seconds above 0"):
        FleetClient(**arguments, **{name: value})


def test_a_timeout_that_is_no_number_is_refused_by_name(fleet: FleetClient, coordinator: Any) -> None:
    coordinator.held = True
    handle = fleet.submit("noop", {"n": 1})
    for wrong in ("5", float("nan"), True):
        with pytest.raises(RequestRefused, match="timeout must be a number of seconds, or None"):
            handle.result(wrong)  # type: ignore[arg-type]
        with pytest.raises(RequestRefused, match="timeout must be a number of seconds, or None"):
            next(fleet.stream(handle.task_id, timeout=wrong))  # type: ignore[arg-type]
    with pytest.raises(TaskTimeout):
        handle.result(-1)


def test_a_failed_and_a_cancelled_task_raise_what_they_are(fleet: FleetClient) -> None:
    with pytest.raises(TaskFailed, match="boom") as failed:
        fleet.submit("fails", {}).result(5)
    assert failed.value.kind == "raised"
    with pytest.raises(TaskCancelled):
        fleet.submit("cancelled", {}).result(5)


def test_a_result_that_does_not_come_in_time_is_a_timeout_and_the_task_goes_on(
    fleet: FleetClient, coordinator: Any
) -> None:
    coordinator.held = True
    handle = fleet.submit("noop", {"n": 1})
    with pytest.raises(TaskTimeout):
        handle.result(timeout=0.05)
    assert handle.status() == "pending"
    coordinator.release()
    assert handle.result(timeout=5) == {"n": 1}


@pytest.mark.parametrize(
    ("arguments_of_submit", "words"),
    [
        ({"task_type": ""}, "task type"),
        ({"payload": [1]}, "dict"),
        ({"payload": {"x": object()}}, "JSON"),
        ({"priority": "high"}, "priority"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"task_id": "no spaces"}, "task id"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    fleet: FleetClient, coordinator: Any, arguments_of_submit: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestRefused, match=words) as refused:
        fleet.submit(**{"task_type": "noop", "payload": {}, **arguments_of_submit})
    assert refused.value.code == "INVALID_TASK"
    assert coordinator.requests == []


def test_what_the_coordinator_refuses_is_raised_by_submit(fleet: FleetClient) -> None:
    with pytest.raises(RequestRefused, match="never heard of it") as refused:
        fleet.submit("unknown", {})
    assert refused.value.code == "UNKNOWN_TASK_TYPE"
    with pytest.raises(RequestRefused) as large:
        fleet.submit("noop", {"text": "x" * 20_000})
    assert large.value.code == "PAYLOAD_TOO_LARGE"


def test_the_same_idempotency_key_is_the_same_task(fleet: FleetClient, coordinator: Any) -> None:
    first = fleet.submit("noop", {"n": 1}, idempotency_key="order-17")
    second = fleet.submit("noop", {"n": 1}, idempotency_key="order-17")
    assert first.task_id == second.task_id
    assert (first.result(5), second.result(5)) == ({"n": 1}, {"n": 1})
    assert len(coordinator.tasks) == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "\ud800"}, "idempotency_key has half of a surrogate pair"),
        ({"labels": ["x"]}, "labels"),
        ({"labels": {"gpu": ["a100"]}}, "labels"),
        ({"labels": {1: "x"}}, "labels"),
        ({"distributor": ["d-1"]}, "distributor"),
        ({"task_id": ""}, "task id"),
        ({"task_id": "order-17", "idempotency_key": "order-17"}, "not both"),
        ({"timeout_s": "5"}, "timeout_s"),
        ({"timeout_s": [1]}, "timeout_s"),
        ({"max_attempts": "3"}, "whole number"),
        ({"max_attempts": True}, "whole number"),
    ],
)
def test_options_that_say_nothing_are_refused_by_name(
    fleet: FleetClient, coordinator: Any, options: dict[str, Any], named: str
) -> None:
    """An empty text is what a variable that was never set leaves behind."""
    with pytest.raises(RequestRefused, match=named):
        fleet.submit("noop", {}, **options)
    assert not coordinator.tasks


def test_a_status_that_there_is_not_is_refused(fleet: FleetClient) -> None:
    with pytest.raises(RequestRefused, match="completed"):
        fleet.tasks(status="bogus")


@pytest.mark.parametrize("wrong", [0, -1, "x", 2.5, True])
def test_a_limit_that_cannot_be_one_is_refused(fleet: FleetClient, wrong: Any) -> None:
    with pytest.raises(RequestRefused, match="limit must be a whole number"):
        fleet.tasks(limit=wrong)
    with pytest.raises(RequestRefused, match="limit must be a whole number"):
        fleet.history(limit=wrong)


@pytest.mark.parametrize("wrong", ["x", -1, float("nan")])
def test_a_span_that_cannot_be_one_is_refused(fleet: FleetClient, wrong: Any) -> None:
    with pytest.raises(RequestRefused, match="older_s must be a number of seconds"):
        fleet.tasks(older_s=wrong)


def test_map_keeps_the_order_and_bounds_what_is_in_flight(fleet: FleetClient, coordinator: Any) -> None:
    endless = ({"n": number} for number in itertools.count())
    values = list(itertools.islice(fleet.map("noop", endless, in_flight=64), 1000))
    assert values == [{"n": number} for number in range(1000)]
    assert len(coordinator.tasks) <= 1000 + 64


def test_map_as_completed_yields_each_value_once(fleet: FleetClient) -> None:
    values = fleet.map("noop", [{"n": number} for number in range(300)], as_completed=True)
    assert sorted(value["n"] for value in values) == list(range(300))


def test_map_over_nothing(fleet: FleetClient) -> None:
    assert list(fleet.map("noop", [])) == []


def test_map_raises_in_order_or_returns_errors_or_records(fleet: FleetClient) -> None:
    with pytest.raises(TaskFailed):
        list(fleet.map("fails", [{}, {}]))
    returned = list(fleet.map("fails", [{}, {}], return_exceptions=True))
    assert [type(value) for value in returned] == [TaskFailed, TaskFailed]
    records = list(fleet.map("fails", [{}, {}], records=True))
    assert [record["status"] for record in records] == ["failed", "failed"]


def test_a_slow_source_does_not_hold_results_back(fleet: FleetClient) -> None:
    """Each payload of this source depends on the value of the one before."""
    seen: list[int] = []

    def source() -> Iterator[dict[str, int]]:
        for number in range(5):
            wait = threading.Event()
            wait.wait(0.006)
            yield {"n": number}
            assert number < 3 or seen, "no result was handed out although the first tasks are long done"

    for value in fleet.map("noop", source()):
        seen.append(value["n"])
    assert seen == [0, 1, 2, 3, 4]


def test_leaving_a_map_early_leaves_the_client_usable(fleet: FleetClient) -> None:
    for value in fleet.map("noop", ({"n": number} for number in range(10_000))):
        if value["n"] == 10:
            break
    assert fleet.submit("noop", {"n": "after"}).result(5) == {"n": "after"}


def test_submit_many_and_mixed(fleet: FleetClient) -> None:
    handles = fleet.submit_many("noop", ({"n": number} for number in range(2000)), priority=1)
    assert [handle.result(5)["n"] for handle in handles] == list(range(2000))
    mixed = fleet.submit_tasks(
        [{"task_type": "noop", "payload": {"n": 1}, "task_id": "mine"}, {"task_type": "fails", "payload": {}}]
    )
    assert mixed[0].task_id == "mine"
    assert mixed[0].result(5) == {"n": 1}
    with pytest.raises(TaskFailed):
        mixed[1].result(5)


def test_attach(fleet: FleetClient, coordinator: Any, arguments: dict[str, Any]) -> None:
    coordinator.held = True
    handle = fleet.submit("noop", {"n": 1}, task_id="long-one")
    with FleetClient(**arguments) as other:
        attached = other.attach("long-one")
        coordinator.release()
        assert attached.result(5) == {"n": 1}
        with pytest.raises(RequestRefused, match="UNKNOWN_TASK"):
            other.attach("never-submitted")
    assert handle.task_id == "long-one"


def test_queries(fleet: FleetClient, coordinator: Any) -> None:
    fleet.submit("noop", {"n": 1}, task_id="a").result(5)
    record = fleet.get("a")
    assert record is not None
    assert record["status"] == "completed"
    assert fleet.get("b") is None
    assert fleet.tasks(limit=5) == TaskPage([{"task_id": "a"}], 1)
    assert fleet.history("a")[0] == ("2026-01-01T00:00:00Z", "a", "submitted", {"by": "x"})
    ids = [f"t{number}" for number in range(700)]
    assert fleet.cancel(*ids)["echo"] == ids
    assert "action" not in fleet.status()
    assert [action for action, _ in coordinator.requests].count("cancel_tasks") == 2


def test_only_operators_retry_and_drain(fleet: FleetClient, arguments: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="FORBIDDEN"):
        fleet.retry("a")
    with FleetClient(**arguments, client_id="operator") as operator:
        assert operator.retry("a")["echo"] == ["a"]
        assert "echo" in operator.drain("worker-1")


def test_busy_is_retried_inside(fleet: FleetClient, coordinator: Any) -> None:
    refusals = iter([{"code": "BUSY", "message": "full", "retry_after_s": 0.02}] * 3)
    coordinator.fault = lambda action: next(refusals, None)
    assert fleet.submit("noop", {"n": 1}).result(5) == {"n": 1}
    assert [action for action, _ in coordinator.requests] == ["submit_tasks"] * 4


def test_busy_for_too_long_and_silence_for_too_long(arguments: dict[str, Any], coordinator: Any) -> None:
    with FleetClient(**arguments, request_timeout_s=0.4) as fleet:
        coordinator.fault = lambda action: {"code": "BUSY", "message": "full", "retry_after_s": 0.05}
        with pytest.raises(RequestRefused, match="BUSY"):
            fleet.submit("noop", {})
        coordinator.fault = lambda action: None
        coordinator.mute = {"submit_tasks", "history"}
        with pytest.raises(FleetUnavailable, match="did not answer"):
            fleet.submit("noop", {})
        with pytest.raises(FleetUnavailable, match="did not answer"):
            fleet.history()


def test_a_replaced_coordinator_costs_no_result(fleet: FleetClient, coordinator: Any, wait_until: WaitUntil) -> None:
    coordinator.held = True
    handles = fleet.submit_many("noop", ({"n": number} for number in range(300)))
    coordinator.release(tell=False)  # completed, but the news is lost with the coordinator
    coordinator.restart()
    assert [handle.result(8)["n"] for handle in handles] == list(range(300))
    assert len(coordinator.tasks) == 300


def test_a_submission_outlives_the_coordinator_that_did_not_answer_it(fleet: FleetClient, coordinator: Any) -> None:
    coordinator.mute = {"submit_tasks"}
    outcome: list[Any] = []
    caller = threading.Thread(target=lambda: outcome.append(fleet.submit("noop", {"n": 1}).result(8)))
    caller.start()
    while not coordinator.requests:
        caller.join(0.01)
    coordinator.mute = set()
    coordinator.restart()
    caller.join(8)
    assert outcome == [{"n": 1}]


def test_without_a_coordinator(free_port: Callable[[], int], arguments: dict[str, Any]) -> None:
    arguments["addresses"] = f"tcp://127.0.0.1:{free_port()}"
    with FleetClient(**arguments, request_timeout_s=0.3) as fleet:
        with pytest.raises(FleetUnavailable, match="nothing answers"):
            fleet.submit("noop", {})
        with pytest.raises(FleetUnavailable):
            fleet.status()


def test_waiting_for_a_result_ends_when_the_fleet_is_gone(arguments: dict[str, Any], coordinator: Any) -> None:
    with FleetClient(**arguments, unavailable_after_s=0.5) as fleet:
        coordinator.held = True
        handle = fleet.submit("noop", {})
        coordinator.stop()
        with pytest.raises(FleetUnavailable, match="handle stays valid"):
            handle.result()


def test_a_reconnect_that_fails_for_a_moment_ends_nothing(
    fleet: FleetClient, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptors, or a host name that is unknown, for the moment."""
    errors = iter([zmq.ZMQError(errno.EMFILE), ConfigError("its host name is unknown")])
    connect = DealerSocket._open

    def fails(dealer: DealerSocket) -> None:
        for error in errors:
            raise error
        connect(dealer)

    assert fleet.submit("noop", {"n": 1}).result(5) == {"n": 1}
    with monkeypatch.context() as patched:
        patched.setattr(DealerSocket, "_open", fails)
        coordinator.restart()
        assert fleet.submit("noop", {"n": 2}).result(5) == {"n": 2}
    assert next(errors, None) is None


def test_a_wrong_secret_is_told_as_such(arguments: dict[str, Any]) -> None:
    arguments["token_secret"] = "another secret of sufficient length"
    with (
        FleetClient(**arguments, request_timeout_s=0.7) as fleet,
        pytest.raises(FleetUnavailable, match=r"keys|refuses"),
    ):
        fleet.submit("noop", {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"addresses": "localhost"},
        {"addresses": []},
        {"addresses": "tcp://127.0.0.1:1", "client_id": "a b"},
        {"addresses": "tcp://127.0.0.1:1", "token_secret": "short"},
        {"addresses": "tcp://127.0.0.1:1", "key_dir": "/nowhere/at/all"},
    ],
)
def test_wrong_settings_are_refused_by_the_constructor(wrong: dict[str, Any]) -> None:
    if wrong["addresses"] == []:
        wrong = {"addresses": " , "}
    with pytest.raises(ConfigError):
        FleetClient(**wrong)


def test_a_closed_client_says_so(arguments: dict[str, Any], coordinator: Any) -> None:
    fleet = FleetClient(**arguments)
    coordinator.held = True
    handle = fleet.submit("noop", {})
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            handle.result()
        except FleetUnavailable as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    fleet.close()
    fleet.close()
    thread.join(5)
    assert len(waiting) == 1
    with pytest.raises(FleetUnavailable, match="closed"):
        fleet.submit("noop", {})


def test_many_threads_share_a_client(fleet: FleetClient) -> None:
    values: list[int] = []

    def work(first: int) -> None:
        values.extend(fleet.submit("noop", {"n": first + step}).result(5)["n"] for step in range(20))

    threads = [threading.Thread(target=work, args=(number * 100,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(8)
    assert sorted(values) == sorted(number * 100 + step for number in range(8) for step in range(20))


def test_a_forked_child_gets_a_clear_error(fleet: FleetClient) -> None:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fleet.submit("noop", {})
        except FleetUnavailable as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        assert "fork" in pipe.read()
    os.waitpid(child, 0)
    assert fleet.submit("noop", {"n": 1}).result(5) == {"n": 1}
