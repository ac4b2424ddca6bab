"""Frames between a worker and its child processes: two lengths, a JSON head, a body that is JSON already.

The body (a payload downwards, a result upwards) is never parsed and encoded again on the way.

Worker → child: ``["run", task_id, attempt, task_type, reference, timeout_s, metadata]`` + payload;
``["stop", task_id, attempt, reason]``; ``["revoke", task_id, attempt]`` (give it back, unless it has begun); ``["load",
reference]`` (import a handler ahead); ``["models", {...}]`` (other chat models); ``["init", {...}]`` first.
Child → worker: ``["ready"]``; ``["loaded"]``;
``["done", task_id, attempt, outcome, error, error_kind, retryable, started_at, execution_s, detail, over]`` + result,
``over`` if the child runs nothing more; ``["back", task_id, attempt]`` (revoked, not begun); ``["model", …]``, a
:class:`a2a_zmq.llm.calls.Call`; ``["events", task_id, attempt, prev, last]`` + events that are stored; ``["log", level,
logger, text, traceback, held back]``; ``["spans", exported, failed, dropped]``: what became of spans since the last.
"""

from __future__ import annotations

import struct

import orjson

from a2a_zmq.texts import whole_texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIZES = struct.Struct("<II")
# Heads hold metadata and failure details, bodies a payload or result that the settings bound far below this.
MAX_HEAD_BYTES = 4 * 1024 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024


class BadFrame(Exception):
    """The other side wrote something that is no frame."""


def pack(head: list[Any], body: bytes = b"") -> bytes:
    """One frame. Lone surrogates in the head's texts (a handler's log lines) are replaced.

    Raises:
        TypeError: the head is not JSON.
    """
    try:
        encoded = orjson.dumps(head)
    except TypeError:
        encoded = orjson.dumps(whole_texts(head))
    return _SIZES.pack(len(encoded), len(body)) + encoded + body


class Unpacker:
    """Frames from a byte stream that comes in pieces."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[list[Any], bytes]]:
        """All frames that are complete now, as (head, body).

        Raises:
            BadFrame: this is no stream of frames.
        """
        buffer = self._buffer
        buffer += data
        frames: list[tuple[list[Any], bytes]] = []
        at = 0
        while len(buffer) - at >= _SIZES.size:
            head_size, body_size = _SIZES.unpack_from(buffer, at)
            if head_size > MAX_HEAD_BYTES or body_size > MAX_BODY_BYTES:
                raise BadFrame(f"a frame of {head_size} + {body_size} bytes")
            start = at + _SIZES.size
            end = start + head_size + body_size
            if len(buffer) < end:
                break
            try:
                head = orjson.loads(bytes(buffer[start : start + head_size]))
            except orjson.JSONDecodeError as error:
                raise BadFrame(str(error)) from None
            if not isinstance(head, list) or not head:
                raise BadFrame("the head is no list")
            frames.append((head, bytes(buffer[start + head_size : end])))
            at = end
        del buffer[:at]
        return frames
