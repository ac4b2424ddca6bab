"""Copies of a child process that its handler makes: they are not the worker's."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("task_type", ["fork", "fork-async"])
@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("raise", 1), ("return", 0)])
def test_a_copy_that_comes_back_ends(rig: Any, task_type: str, how: str, code: int) -> None:
    """Symptom: it reported the run, while its parent waited for its end, and that one got the next run."""
    for n in range(2):
        assert rig.value(task_type, {"how": how}, task_id=f"run{n}") == {"copy": False, "code": code}
    assert rig.value("echo", {"after": 1}) == {"after": 1}


def test_a_copy_can_be_terminated(rig: Any) -> None:
    """Symptom: ``Process.terminate()`` of multiprocessing did nothing, and ``join()`` never returned."""
    assert [rig.value("terminate-copy", task_id=f"run{n}") for n in range(5)] == [-15] * 5
