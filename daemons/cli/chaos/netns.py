"""Network namespaces: a daemon behind a link of its own, which can be taken down as a cable is pulled."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Space:
    """A namespace with one link: our end and its end."""

    name: str
    device: str
    our_address: str
    its_address: str

    def link(self, *, up: bool) -> None:
        """Its end of the link: while it is down packets are dropped in silence, and connections stay open."""
        _ip("-n", self.name, "link", "set", self.device, "up" if up else "down")


@contextlib.contextmanager
def spaces(agents: Sequence[str]) -> Iterator[tuple[dict[str, Space], str]]:
    """Namespaces by agent, and "", or none and why there are none; gone afterwards."""
    made: dict[str, Space] = {}
    # Private addresses that nothing else here is likely to have; two runs at a time differ.
    network = f"10.{random.randrange(192, 255)}.{random.randrange(256)}"
    tag = f"{os.getpid():x}"
    why = "only root may make network namespaces" if os.geteuid() != 0 else ""
    try:
        for number, agent in enumerate(agents[:60] if not why else ()):
            first = 4 * number
            space = Space(
                f"a2a-{tag}-{number}", f"a2a{tag}n{number}", f"{network}.{first + 1}", f"{network}.{first + 2}"
            )
            why = _make(space, f"a2a{tag}h{number}")
            made[agent] = space
            if why:
                break
        yield ({} if why else made), why
    finally:
        for space in made.values():
            _ip("netns", "delete", space.name)  # the link goes with it


def _make(space: Space, host_device: str) -> str:
    """Make it; returns "" or why that cannot be done."""
    steps = (
        ("netns", "add", space.name),
        ("link", "add", host_device, "type", "veth", "peer", "name", space.device, "netns", space.name),
        ("address", "add", f"{space.our_address}/30", "dev", host_device),
        ("link", "set", host_device, "up"),
        ("-n", space.name, "address", "add", f"{space.its_address}/30", "dev", space.device),
        ("-n", space.name, "link", "set", space.device, "up"),
        ("-n", space.name, "link", "set", "lo", "up"),
    )
    for step in steps:
        why = _ip(*step)
        if why:
            return f"ip {' '.join(step)}: {why}"
    return ""


def _ip(*arguments: str) -> str:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or "failed").splitlines()[0]
