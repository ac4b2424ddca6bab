"""Errors of redis-py in the project's terms."""

from __future__ import annotations

from typing import Final

from redis import exceptions

from a2a_zmq.errors import StateError, StoreUnavailable
from a2a_zmq.state.wire import to_state_error

# redis-py takes the first word off these errors' text, so the class says what they are. The first that fits counts.
_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (exceptions.AuthenticationError, "noauth"),
    (exceptions.NoPermissionError, "noauth"),
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.ReadOnlyError, "readonly"),
    (exceptions.OutOfMemoryError, "oom"),
    (exceptions.TimeoutError, "timeout"),
    (exceptions.ConnectionError, "connection"),
    (exceptions.ClusterDownError, "connection"),
    (exceptions.RedisClusterException, "connection"),
)
# What a server says to a command of more than ten words from a client that has not logged in.
_NO_LOGIN: Final = "Protocol error: unauthenticated"


def translated(error: exceptions.RedisError | OSError) -> StateError:
    """The typed form, to be raised from the error itself."""
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
    if _NO_LOGIN in str(error):
        reason = "noauth"
    if reason is None:
        return to_state_error(error)
    return StoreUnavailable(reason, str(error), fatal=reason == "noauth")
