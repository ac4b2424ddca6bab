"""Tasks that wait for answers, as their clients, operators and distributors see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.clock import iso
from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.fakes import Json
from tests.unit.coordinator.harness import World

QUESTION = [{"id": "i1", "value": "go on?"}]
BOTH = [{"id": "i1", "value": "go on?"}, {"id": "i2", "value": "and then?"}]


def asks(world: World, task_id: str, attempt: int = 1, questions: list[Json] | None = None, home: str = "d1") -> None:
    """The distributor stores that the task waits, and tells."""
    questions = QUESTION if questions is None else questions
    record = world.store.live[home][task_id]
    record["status"] = "waiting"
    record["metadata"] |= {"attempt": attempt, "interrupts": questions}
    tell(world, task_id, attempt, questions, home)


def tell(world: World, task_id: str, attempt: int, questions: Any, home: str = "d1") -> None:
    item = {"task_id": task_id, "attempt": attempt, "interrupts": questions}
    world.say(home, MessageType.EVENT, {"action": "task_waiting", "tasks": [item], "version": 1})


def told(world: World, name: str) -> list[tuple[str, int, list[Json]]]:
    """(task id, attempt, questions) of all that a client was told of waiting."""
    events = [each for each in world.peers[name].told if each.action == "task_waiting"]
    return [(item["task_id"], item["attempt"], item["interrupts"]) for each in events for item in each.payload["tasks"]]


def forwarded(world: World, name: str = "d1") -> list[Any]:
    """Answers that a distributor was asked to take."""
    return [row for each in world.peers[name].told if each.action == "resume_tasks" for row in each.payload["tasks"]]


def verdict(world: World, word: str, name: str = "d1") -> None:
    """The distributor says what became of the last answer."""
    asked = [each for each in world.peers[name].told if each.action == "resume_tasks"][-1].payload
    rows = [[row[0], word] for row in asked["tasks"]]
    world.say(name, MessageType.RESPONSE, {"action": "resume_tasks", "tag": asked["tag"], "tasks": rows})


def answer(world: World, name: str, task_id: str, **payload: Any) -> str:
    return world.say(name, MessageType.REQUEST, {"action": "resume_task", "task_id": task_id, **payload})


def code(world: World, name: str, request_id: str) -> str:
    found = world.answer_to(name, request_id)
    return "" if found is None else str(found.payload.get("code") or "ok")


@pytest.fixture
def waiting(world: World) -> World:
    """A world in which alice's task ``a`` at d1 waits."""
    world.client()
    world.client("bob~1")
    world.operator()
    world.distributor()
    world.submit("alice~1", "a")
    asks(world, "a")
    return world


def test_who_waits_for_the_result_is_told_the_question_once(waiting: World) -> None:
    tell(waiting, "a", 1, QUESTION)
    assert told(waiting, "alice~1") == [("a", 1, QUESTION)]
    assert told(waiting, "bob~1") == told(waiting, "root~1") == []


def test_an_answer_goes_to_the_distributor_and_is_confirmed_when_that_has_stored_it(waiting: World) -> None:
    request = answer(waiting, "alice~1", "a", value="yes")
    assert forwarded(waiting) == [["a", {"i1": "yes"}, 1]]
    assert code(waiting, "alice~1", request) == ""
    verdict(waiting, "resumed")
    assert code(waiting, "alice~1", request) == "ok"
    assert told(waiting, "alice~1")[-1] == ("a", 1, []), "it goes on"
    assert [event[3]["by"] for event in waiting.store.events("answered")] == ["alice~1"]


def test_counts_status_and_lists_show_what_waits(waiting: World) -> None:
    waiting.submit("alice~1", "b")
    waiting.beat("d1", pending=0, in_progress=1, waiting=1)
    status = waiting.ask("root~1", "fleet_status")
    assert (status["tasks"]["pending"], status["tasks"]["in_progress"], status["tasks"]["waiting"]) == (0, 1, 1)
    (home,) = status["distributors"]
    assert (home["pending"], home["in_progress"], home["waiting"]) == (0, 1, 1)
    page = waiting.ask("root~1", "list_tasks", status="waiting")
    assert [(row["task_id"], row["status"]) for row in page["tasks"]] == [("a", "waiting")]
    assert page["tasks"][0]["metadata"]["interrupts"] == QUESTION
    assert page["total"] == 1
    assert waiting.ask("bob~1", "list_tasks", status="waiting")["tasks"] == []
    waiting.supervise()
    assert waiting.meter.gauges["tasks/waiting"] == 1


def test_an_answered_task_is_not_said_to_wait_while_the_store_does_not_know_of_the_answer(waiting: World) -> None:
    answer(waiting, "alice~1", "a", value="yes")
    verdict(waiting, "resumed")
    assert waiting.store.live["d1"]["a"]["status"] == "waiting"
    task = waiting.ask("alice~1", "get_task", task_id="a")["task"]
    assert (task["status"], "interrupts" in task["metadata"]) == ("pending", False)
    assert [row["status"] for row in waiting.ask("alice~1", "list_tasks")["tasks"]] == ["pending"]


def test_what_waits_leaves_room_in_the_distributors_window(make_world: Callable[..., World]) -> None:
    world = make_world(assign_window=1)
    world.own()
    world.client()
    world.distributor()
    world.submit("alice~1", "a", "b")
    assert world.assigned("d1") == ["a"]
    asks(world, "a")
    world.turn()
    assert world.assigned("d1") == ["a", "b"]


def test_a_watched_task_that_waits_is_said_to_wait_with_its_question(waiting: World) -> None:
    seen = waiting.ask("root~1", "watch_tasks", task_ids=["a"])
    assert seen["live"] == [["a", "waiting"]]
    assert told(waiting, "root~1") == [("a", 1, QUESTION)]


def test_a_task_that_is_submitted_again_while_it_waits_tells_its_question(waiting: World) -> None:
    waiting.gone("alice~1")
    waiting.client("alice~2")
    waiting.submit("alice~2", "a", check=True)
    assert told(waiting, "alice~2") == [("a", 1, QUESTION)]


def test_a_long_question_is_read_from_the_store_where_it_is_wanted(waiting: World) -> None:
    long = [{"id": "i2", "value": "x" * 5_000}]
    asks(waiting, "a", 2, long)
    waiting.ask("root~1", "watch_tasks", task_ids=["a"])
    assert told(waiting, "root~1") == [("a", 2, long)]
    answer(waiting, "alice~1", "a", value=7)
    assert forwarded(waiting) == [["a", {"i2": 7}, 2]]


@pytest.mark.parametrize(
    ("name", "task_id", "payload", "wanted"),
    [
        ("alice~1", "a", {}, "INVALID_TASK"),
        ("alice~1", "a", {"value": 1, "answers": {"i1": 1}}, "INVALID_TASK"),
        ("alice~1", "a", {"answers": {}}, "INVALID_TASK"),
        ("alice~1", "a", {"answers": [1]}, "INVALID_TASK"),
        ("alice~1", "a", {"answers": {"i9": 1}}, "NOT_WAITING"),
        ("alice~1", "a", {"value": 1, "attempt": 7}, "NOT_WAITING"),
        ("alice~1", "zzz", {"value": 1}, "UNKNOWN_TASK"),
        ("bob~1", "a", {"value": 1}, "UNKNOWN_TASK"),
    ],
)
def test_what_cannot_be_an_answer_is_refused(
    waiting: World, name: str, task_id: str, payload: Json, wanted: str
) -> None:
    assert code(waiting, name, answer(waiting, name, task_id, **payload)) == wanted
    assert forwarded(waiting) == []


def test_an_answer_that_is_too_large_or_too_deep_is_refused(waiting: World) -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    for value in ("x" * 2_000_000, deep):
        assert code(waiting, "alice~1", answer(waiting, "alice~1", "a", value=value)) == "PAYLOAD_TOO_LARGE"


def test_a_value_alone_is_ambiguous_where_there_are_several_questions(waiting: World) -> None:
    asks(waiting, "a", 2, BOTH)
    request = answer(waiting, "alice~1", "a", value=1)
    found = waiting.answer_to("alice~1", request)
    assert found is not None
    assert found.payload["code"] == "AMBIGUOUS"
    assert "i1, i2" in found.payload["message"]
    answer(waiting, "alice~1", "a", answers={"i2": 1})
    assert forwarded(waiting) == [["a", {"i2": 1}, 2]]


def test_a_task_that_runs_or_has_ended_does_not_wait(waiting: World) -> None:
    waiting.submit("alice~1", "b", "c")
    assert code(waiting, "alice~1", answer(waiting, "alice~1", "b", value=1)) == "NOT_WAITING"
    waiting.finish("d1", "c")
    assert code(waiting, "alice~1", answer(waiting, "alice~1", "c", value=1)) == "NOT_WAITING"


def test_a_refused_answer_is_told_whether_it_comes_too_early_or_too_late(waiting: World) -> None:
    waiting.submit("alice~1", "b")
    asks(waiting, "a", 2, BOTH)
    early = answer(waiting, "alice~1", "b", value=1)
    answer(waiting, "alice~1", "a", answers={"i1": 1})
    verdict(waiting, "resumed")
    second = answer(waiting, "alice~1", "a", answers={"i2": 1}, attempt=2)
    verdict(waiting, "not_waiting")
    for request, says in (
        (early, "does not wait for an answer yet"),
        (second, "does not wait for this answer any more"),
    ):
        refusal = waiting.answer_to("alice~1", request)
        assert refusal is not None
        assert says in refusal.payload["message"]


def test_an_operator_answers_for_anybody(waiting: World) -> None:
    request = answer(waiting, "root~1", "a", value="yes")
    verdict(waiting, "resumed")
    assert code(waiting, "root~1", request) == "ok"
    assert told(waiting, "alice~1")[-1] == ("a", 1, []), "its client hears that it goes on"


def test_a_repeated_answer_is_asked_of_the_distributor_again(waiting: World) -> None:
    for _ in range(2):
        request = answer(waiting, "alice~1", "a", answers={"i1": "yes"}, attempt=1)
        verdict(waiting, "resumed")
        assert code(waiting, "alice~1", request) == "ok"
    assert forwarded(waiting) == [["a", {"i1": "yes"}, 1]] * 2


def test_a_repeated_answer_is_confirmed_also_when_the_task_has_ended(waiting: World) -> None:
    answer(waiting, "alice~1", "a", answers={"i1": "yes"}, attempt=1)
    verdict(waiting, "resumed")
    result = waiting.result("d1", "a")
    result["metadata"]["resumed"] = 1
    waiting.store.record("d1", "a", result)
    del waiting.store.live["d1"]["a"]
    waiting.report("d1", [result])
    request = answer(waiting, "alice~1", "a", answers={"i1": "yes"}, attempt=1)
    assert code(waiting, "alice~1", request) == "ok"
    assert code(waiting, "alice~1", answer(waiting, "alice~1", "a", value="yes")) == "NOT_WAITING"


def test_a_distributor_that_comes_back_is_asked_again(waiting: World) -> None:
    request = answer(waiting, "alice~1", "a", value="yes")
    waiting.gone("d1")
    waiting.distributor(restarted=True)
    assert forwarded(waiting) == [["a", {"i1": "yes"}, 1]] * 2
    verdict(waiting, "resumed")
    assert code(waiting, "alice~1", request) == "ok"


def test_a_distributor_that_does_not_answer_lets_the_client_ask_again(waiting: World) -> None:
    request = answer(waiting, "alice~1", "a", value="yes")
    waiting.advance(10)
    assert code(waiting, "alice~1", request) == "UNAVAILABLE"
    verdict(waiting, "resumed")  # late: nobody waits for it
    assert code(waiting, "alice~1", request) == "UNAVAILABLE"


def test_a_distributor_that_does_not_know_the_task_yet_lets_the_client_ask_again(waiting: World) -> None:
    request = answer(waiting, "alice~1", "a", value="yes")
    verdict(waiting, "unknown")
    assert code(waiting, "alice~1", request) == "UNAVAILABLE"


def test_what_does_not_wait_any_more_is_known_so_afterwards(waiting: World) -> None:
    request = answer(waiting, "alice~1", "a", value="yes")
    verdict(waiting, "not_waiting")
    assert code(waiting, "alice~1", request) == "NOT_WAITING"
    assert waiting.ask("root~1", "fleet_status")["tasks"]["waiting"] == 0


def test_attempts_that_are_counted_anew_after_a_loss_of_state_ask_again(waiting: World) -> None:
    asks(waiting, "a", 3, QUESTION)
    answer(waiting, "alice~1", "a", value="yes")
    verdict(waiting, "resumed")
    for attempt in (3, 1):
        tell(waiting, "a", attempt, BOTH)
        assert told(waiting, "alice~1")[-1] == ("a", attempt, BOTH)


def test_a_second_question_is_told_once(waiting: World) -> None:
    answer(waiting, "alice~1", "a", value="yes")
    verdict(waiting, "resumed")
    asks(waiting, "a", 3, BOTH)
    tell(waiting, "a", 3, BOTH)
    assert told(waiting, "alice~1") == [("a", 1, QUESTION), ("a", 1, []), ("a", 3, BOTH)]


def test_a_distributor_that_counts_more_waiting_tasks_than_we_know_is_asked_for_them(waiting: World) -> None:
    waiting.submit("alice~1", "b")
    before = len([each for each in waiting.peers["d1"].told if each.action == "resync"])
    for _ in range(4):
        waiting.beat("d1", pending=0, in_progress=0, waiting=2)
    waiting.supervise()
    assert len([each for each in waiting.peers["d1"].told if each.action == "resync"]) == before + 1


def audited(world: World) -> list[tuple[str, str, bool]]:
    request = world.say("root~1", MessageType.REQUEST, {"action": "audit", "repair": True})
    for _ in range(8):
        for each in [told for told in world.peers["d1"].told if told.action == "audit"]:
            answer = {"action": "audit", "number": each.payload["number"], "unknown": [], "findings": []}
            world.say("d1", MessageType.RESPONSE, answer)
        world.advance(1)
    found = world.answer_to("root~1", request)
    assert found is not None
    return [(row["kind"], row["task_id"], row["repaired"]) for row in found.payload["findings"]]


def test_an_audit_finds_a_question_that_nobody_was_told_and_tells_it(waiting: World) -> None:
    waiting.advance(10)
    assert audited(waiting) == []
    record = waiting.store.live["d1"]["a"]
    record["metadata"] |= {"asked": 4, "attempt": 4, "interrupts": BOTH}
    record["updated_at"] = iso(waiting.now.wall - 10)
    assert audited(waiting) == [("wait_unheard", "a", True)]
    assert told(waiting, "alice~1")[-1] == ("a", 4, BOTH)
    assert audited(waiting) == []


def test_an_audit_finds_a_task_that_does_not_wait_any_more(waiting: World) -> None:
    record = waiting.store.live["d1"]["a"]
    record["status"] = "in_progress"
    record["updated_at"] = iso(waiting.now.wall - 10)
    assert audited(waiting) == [("wait_unheard", "a", True)]
    assert waiting.ask("root~1", "fleet_status")["tasks"]["waiting"] == 0


def test_a_new_coordinator_reads_from_the_store_what_waits(waiting: World, make_world: Callable[..., World]) -> None:
    after = make_world(waiting.store)
    after.own()
    after.distributor()
    after.client()
    assert after.ask("alice~1", "watch_tasks", task_ids=["a"])["live"] == [["a", "waiting"]]
    assert told(after, "alice~1") == [("a", 1, QUESTION)]
    answer(after, "alice~1", "a", answers={"i1": "yes"}, attempt=1)
    verdict(after, "resumed")
    assert after.ask("alice~1", "watch_tasks", task_ids=["a"])["live"] == [["a", "pending"]]


def test_a_waiting_task_is_cancelled_like_any_other(waiting: World) -> None:
    assert waiting.ask("alice~1", "cancel_tasks", task_ids=["a"])["requested"] == ["a"]
    waiting.finish("d1", "a", status="abandoned")
    assert waiting.got("alice~1")["a"]["status"] == "abandoned"
    assert waiting.ask("root~1", "fleet_status")["tasks"]["waiting"] == 0


@pytest.mark.parametrize("attempt", ["1", None, 0.5])
def test_nonsense_about_waiting_is_left_alone(waiting: World, attempt: Any) -> None:
    waiting.submit("alice~1", "b")
    tell(waiting, "b", attempt, QUESTION)
    tell(waiting, "b", 1, [{"id": 1}, "x"])
    tell(waiting, "unknown", 1, QUESTION)
    waiting.say("d1", MessageType.EVENT, {"action": "task_waiting", "tasks": [None, 7]})
    waiting.say("d1", MessageType.EVENT, {"action": "task_waiting", "tasks": "all"})
    assert told(waiting, "alice~1") == [("a", 1, QUESTION)]


def test_a_task_that_another_distributor_names_is_not_its_business(waiting: World) -> None:
    waiting.distributor("d2")
    tell(waiting, "a", 2, BOTH, home="d2")
    assert told(waiting, "alice~1") == [("a", 1, QUESTION)]


def test_a_question_of_a_former_life_is_not_told(waiting: World) -> None:
    waiting.submit("alice~1", "b")
    waiting.finish("d1", "b", status="failed")
    waiting.ask("root~1", "retry_tasks", task_ids=["b"])
    tell(waiting, "b", 1, QUESTION)
    assert told(waiting, "root~1") == []


def test_a_client_cannot_set_what_belongs_to_the_fleet(waiting: World) -> None:
    metadata: Json = {"graph": "x", "resume": {"i": 1}, "interrupts": QUESTION, "resumed": 1, "put_off": {}, "mine": 1}
    waiting.submit("alice~1", "b", **metadata)
    kept = waiting.store.live["d1"]["b"]["metadata"]
    assert kept.keys() & metadata.keys() == {"mine"}


def test_a_failed_graph_run_that_is_retried_keeps_its_graph(waiting: World) -> None:
    waiting.submit("alice~1", "b")
    result = waiting.result("d1", "b", "failed")
    result["metadata"] |= {"graph": "v1", "graph_attempt": 1, "resume": {"i": 1}, "resumed": 1}
    waiting.store.record("d1", "b", result)
    del waiting.store.live["d1"]["b"]
    waiting.report("d1", [result])
    waiting.ask("root~1", "retry_tasks", task_ids=["b"])
    kept = waiting.store.live["d1"]["b"]["metadata"]
    assert (kept["graph"], kept["resume"]) == ("v1", {"i": 1})


def test_explain_tells_what_is_waited_for(waiting: World) -> None:
    request = waiting.say("alice~1", MessageType.REQUEST, {"action": "explain", "task_id": "a"})
    asked = [each for each in waiting.peers["d1"].told if each.action == "explain"][-1].payload
    view = {"phase": "waiting", "why": ["it waits for an answer"], "interrupts": QUESTION}
    waiting.say("d1", MessageType.RESPONSE, {"action": "explain", "tag": asked["tag"], **view})
    found = waiting.answer_to("alice~1", request)
    assert found is not None
    assert found.payload["task"]["status"] == "waiting"
    assert found.payload["distributor"]["interrupts"] == QUESTION
    assert found.payload["why"] == ["it waits for an answer"]
