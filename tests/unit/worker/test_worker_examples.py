"""The example handlers do what they say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from a2a_zmq.handlers import TaskContext, TaskStopped
from daemons.worker.registry import Registry


def test_examples_are_offered_and_work(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository))
    kinds = Registry.load(["examples.handlers"]).kinds()
    assert {name: kinds[name].executor for name in ("checksum", "tcp_probe", "countdown")} == {
        "checksum": "process",
        "tcp_probe": "async",
        "countdown": "thread",
    }

    from examples.handlers import Checksum, checksum, countdown

    path = tmp_path / "a"
    path.write_bytes(b"data")
    assert checksum(Checksum(path=path))["sha256"] == hashlib.sha256(b"data").hexdigest()
    context = TaskContext("t", 1)
    assert countdown({"from": 1}, context) == {"done_as": "t:1"}
    context.stop("cancelled")
    with pytest.raises(TaskStopped):
        countdown({"from": 1}, context)
