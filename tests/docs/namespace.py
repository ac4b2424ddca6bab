"""Holds a network namespace for ``Host``: ``unshare --net python namespace.py``.

It brings the loopback device up, says so, and waits for the end of its standard input, which comes however the test
ends. Then it kills whatever else is in the namespace. Nothing is imported but the standard library.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

SIOCSIFFLAGS = 0x8914
IFF_UP_AND_RUNNING = 0x41


def loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_AND_RUNNING))


def namespace_of(process: Path) -> str:
    """The network of a process, by its directory in ``/proc``; "" if it is gone, or somebody else's."""
    try:
        return str((process / "ns" / "net").readlink())
    except OSError:
        return ""


def neighbours() -> list[int]:
    """Everybody else in our network."""
    ours = namespace_of(Path("/proc/self"))
    found = [int(each.name) for each in Path("/proc").glob("[0-9]*") if namespace_of(each) == ours]
    return [pid for pid in found if pid != os.getpid()]


def main() -> None:
    loopback_up()
    print("up", flush=True)
    sys.stdin.read()
    while left := neighbours():
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    main()
