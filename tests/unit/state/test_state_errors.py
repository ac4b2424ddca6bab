"""Redis' errors as typed errors."""

from __future__ import annotations

import socket
import ssl

import hiredis
import pytest

from a2a_zmq.errors import StateError, StoreUnavailable
from a2a_zmq.state.wire import to_state_error


def as_read(reply: str) -> Exception:
    """An error reply as the parser hands it over."""
    reader = hiredis.Reader()
    reader.feed(f"-{reply}\r\n".encode())
    error = reader.gets()
    assert isinstance(error, Exception)
    return error


@pytest.mark.parametrize(
    ("reply", "reason", "fatal"),
    [
        ("LOADING Redis is loading the dataset in memory", "loading", False),
        ("READONLY You can't write against a read only replica.", "readonly", False),
        ("MASTERDOWN Link with MASTER is down", "readonly", False),
        ("NOREPLICAS Not enough good replicas to write.", "readonly", False),
        ("OOM command not allowed when used memory > 'maxmemory'.", "oom", False),
        ("MISCONF Errors writing to the AOF file: No space left on device", "misconf", False),
        ("NOAUTH Authentication required.", "noauth", True),
        ("WRONGPASS invalid username-password pair or user is disabled.", "noauth", True),
        ("NOPERM User x has no permissions to run the 'hset' command", "noauth", True),
        ("CLUSTERDOWN The cluster is down", "connection", False),
        ("MOVED 3999 127.0.0.1:6381", "connection", False),
        ("ASK 3999 127.0.0.1:6381", "connection", False),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "connection", False),
        ("no upstream host", "connection", False),  # Envoy's
        ("EXECABORT Transaction discarded because of: MOVED 3999 127.0.0.1:6381", "connection", False),
        ("BUSY Redis is busy running a script.", "timeout", False),
        ("ERR max number of clients reached", "connection", False),
        ("ERR AUTH <password> called without any password configured for the default user.", "noauth", True),
        ("EXECABORT Transaction discarded because of: OOM command not allowed", "oom", False),
        ("EXECABORT Transaction discarded because of: READONLY You can't write", "readonly", False),
    ],
)
def test_replies_that_mean_unavailable(reply: str, reason: str, fatal: bool) -> None:
    error = to_state_error(as_read(reply))
    assert isinstance(error, StoreUnavailable)
    assert (error.reason, error.fatal) == (reason, fatal)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionResetError(104, "Connection reset by peer"), "connection"),
        (socket.gaierror(-2, "Name or service not known"), "connection"),
        (ssl.SSLCertVerificationError("certificate verify failed"), "connection"),
        (hiredis.ProtocolError("Protocol error, got 'x' as reply type byte"), "connection"),
    ],
)
def test_what_the_connection_raises(raised: Exception, reason: str) -> None:
    error = to_state_error(raised)
    assert isinstance(error, StoreUnavailable)
    assert error.reason == reason


@pytest.mark.parametrize(
    "reply",
    [
        "WRONGTYPE Operation against a key",
        "ERR unknown command 'X'",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "EXECABORT Transaction discarded because of previous errors.",
    ],
)
def test_our_own_mistakes_are_not_called_unavailable(reply: str) -> None:
    error = to_state_error(as_read(reply))
    assert isinstance(error, StateError)
    assert not isinstance(error, StoreUnavailable)
