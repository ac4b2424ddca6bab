"""What a saver is asked about: thread, namespace, checkpoint and fence, out of LangGraph's ``config``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

FENCE_KEY: Final = "a2a_fence"
_FENCE_MAX: Final = 1 << 53  # scripts compare numbers as doubles

Fence = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """
    Attributes:
        checkpoint_id: "" where none is named, which means the latest.
        fence: empty where the caller has none.
    """

    thread_id: str
    namespace: str
    checkpoint_id: str
    fence: Fence = ()


def address_of(config: Mapping[str, Any]) -> Address:
    """
    Raises:
        KeyError: there is no thread_id.
        ValueError: the fence is none, or a name holds a NUL character.
    """
    configurable = config["configurable"]
    return Address(
        thread_id=str(configurable["thread_id"]),
        namespace=plain(configurable.get("checkpoint_ns") or ""),
        checkpoint_id=plain(configurable.get("checkpoint_id") or ""),
        fence=fence_of(configurable.get(FENCE_KEY)),
    )


def plain(name: str) -> str:
    """The name itself; names are joined with NUL characters, so none may hold one."""
    if "\x00" in name:
        raise ValueError(f"a name for a checkpoint holds a NUL character: {name!r}")
    return name


def fence_of(value: object) -> Fence:
    """A fence as it is compared: number by number, a missing one counts as 0."""
    if value is None:
        return ()
    numbers = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else (value,)
    fence = []
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _FENCE_MAX:
            raise ValueError(f"{FENCE_KEY} must be a whole number from 0 on, or several: {value!r}")
        fence.append(number)
    return tuple(fence)


def fence_text(fence: Fence) -> str:
    return ".".join(map(str, fence))


def parse_fence(text: str) -> Fence:
    return tuple(int(number) for number in text.split(".") if number)


def ancestors(namespace: str) -> list[str]:
    """The namespace itself and those of the graphs around it, the root's ("") last."""
    found = [namespace]
    while namespace:
        namespace = namespace.rpartition("|")[0]
        found.append(namespace)
    return found
