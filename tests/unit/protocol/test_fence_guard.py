"""The fence that counts: within an epoch the highest, over epochs the newest."""

from __future__ import annotations

import pytest

from a2a_zmq.fences import FenceGuard, obeyed_above


def test_within_an_epoch_a_lower_fence_is_refused() -> None:
    guard = FenceGuard()
    assert guard.admits(3, "e1")
    assert guard.admits(3, "e1")
    assert not guard.admits(2, "e1")
    assert not guard.admits(2), "whoever names no epoch is taken to mean the present one"
    assert guard.admits(4)
    assert (guard.epoch, guard.fence) == ("e1", 4)


def test_a_new_epoch_begins_anew_and_the_one_before_never_comes_back() -> None:
    guard = FenceGuard()
    assert guard.admits(9, "e1")
    assert guard.admits(1, "e2")
    assert not guard.admits(10, "e1")
    assert guard.fence == 1


def test_what_is_remembered_of_former_epochs_is_bounded() -> None:
    guard = FenceGuard()
    for number in range(1_000):
        assert guard.admits(1, f"e{number}")
    assert len(guard._former) < 20


def test_a_process_that_was_behind_may_catch_up() -> None:
    """Found by simulation: a worker that met the former owner after the new one refused the state's epoch for ever."""
    guard = FenceGuard()
    guard.hears("new owner")
    assert guard.admits(1, "e2")
    guard.hears("former owner")
    assert guard.admits(9, "e1")
    assert guard.admits(3, "e2"), "it has the lease again, and with it the present epoch"
    guard.hears("its next process")
    assert guard.admits(4, "e2")


def test_who_insists_on_a_former_epoch_is_believed_in_the_end() -> None:
    guard = FenceGuard()
    assert guard.admits(1, "e2")
    assert guard.admits(9, "e1")
    assert [guard.admits(2, "e2") for _ in range(4)] == [False, False, False, True]


def test_whoever_obeyed_a_higher_fence_of_the_same_epoch_says_so() -> None:
    guard = FenceGuard()
    assert guard.obeys() == {}, "nobody showed one"
    guard.admits(5, "e1")
    said = guard.obeys()
    assert obeyed_above(said, 3, "e1") == 5
    assert obeyed_above(said, 5, "e1") == 0
    assert obeyed_above(said, 3, "e2") == 0, "of another epoch: not to be compared"


@pytest.mark.parametrize(
    "obeys",
    [None, 7, [], {}, {"epoch": ""}, {"epoch": "e1"}, {"epoch": "e1", "fence": "9"}, {"epoch": "e1", "fence": 2**60}],
)
def test_what_is_malformed_or_cannot_be_counts_as_not_said(obeys: object) -> None:
    assert obeyed_above({"obeys": obeys}, 3, "e1") == 0
    assert obeyed_above({}, 3, "") == 0
