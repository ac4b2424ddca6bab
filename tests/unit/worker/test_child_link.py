"""The socket between a child process and its worker, as the child uses it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from daemons.worker.executors import link
from daemons.worker.executors.child_logs import Forwarder
from daemons.worker.executors.frames import Unpacker, pack


@pytest.fixture
def worker() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    worker_fds.append(theirs.detach())
    yield ours
    ours.close()
    os.close(worker_fds.pop())


worker_fds: list[int] = []


@pytest.fixture
def child(worker: socket.socket) -> link.Link:
    return link.Link(worker_fds[-1])


def test_all_that_has_come_is_taken_in_its_order(child: link.Link, worker: socket.socket) -> None:
    heads: list[Any] = []
    for n in range(3):
        worker.sendall(pack(["run", n], b"body"))
    worker.sendall(pack(["revoke"])[:-1])
    assert child.take(lambda head, _: heads.append(head))
    assert heads == [["run", 0], ["run", 1], ["run", 2]]
    worker.close()
    assert not child.take(lambda head, _: heads.append(head))


def test_nothing_is_written_to_another_file_of_the_same_number(child: link.Link, worker: socket.socket) -> None:
    kept = os.dup(worker_fds[-1])
    other, theirs = socket.socketpair()
    os.dup2(theirs.fileno(), worker_fds[-1])
    theirs.close()
    with pytest.raises(OSError, match="another file"):
        child.send(["done"])
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(1)
    os.close(kept)
    other.close()


def test_a_line_that_is_logged_while_its_own_thread_writes_is_held_back(
    child: link.Link, worker: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symptom: a finalizer that logged in the middle of a frame waited for that frame for ever."""
    monkeypatch.setattr(link, "LOG_WAIT_S", 0.001)
    record = logging.makeLogRecord({"msg": "from a finalizer", "levelno": logging.WARNING, "name": "mine"})
    forwarder = Forwarder(child.send_log, lambda: True)
    with monkeypatch.context() as patch:
        write = child._write

        def interrupted(frame: bytes) -> None:
            forwarder.emit(record)
            write(frame)

        patch.setattr(child, "_write", interrupted)
        child.send(["done"])
    forwarder.emit(record)
    told = [head for head, _ in Unpacker().feed(worker.recv(65536))]
    assert told == [["done"], ["log", "warning", "mine", "from a finalizer", "", 1]]
