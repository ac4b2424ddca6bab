"""Whether a daemon could listen where its settings say, before it does."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

import zmq

from a2a_zmq.errors import ConfigError
from a2a_zmq.transport.context import address_error
from daemons.runtime.orphans import may_hold
from daemons.settings import DaemonSettings


def check_addresses(settings: DaemonSettings, leaving: Collection[int] = ()) -> None:
    """
    Args:
        leaving: processes whose place is going to be taken: what they listen on will be free.

    Raises:
        ConfigError: an address that is to be listened on is not free, or none of this host.
    """
    host, port = settings.metrics_address
    failure = _bind_error(host, port, leaving)
    if failure is not None:
        why = "is in use" if failure.errno == errno.EADDRINUSE else f"cannot be bound: {failure.strerror or failure}"
        raise ConfigError(f"metrics_port: {host}:{port} {why}")
    address = settings.hub_address() or ""
    host, _, text = address.removeprefix("tcp://").rpartition(":")
    if address.startswith("tcp://") and text.isdigit():
        failure = _bind_error(host.strip("[]"), int(text), leaving)
        # Names of interfaces are ZeroMQ's to resolve.
        if failure is not None and not isinstance(failure, socket.gaierror):
            raise address_error(address, zmq.ZMQError(failure.errno))


def _bind_error(host: str, port: int, leaving: Collection[int]) -> OSError | None:
    """Why we could not listen there; None if it can be done."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("" if host == "*" else host, port))
    except OSError as error:
        freed = error.errno == errno.EADDRINUSE and leaving and may_hold(leaving, port)
        return None if freed else error
    return None
