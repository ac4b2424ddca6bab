"""Records that no frame can carry are told with less in them; what is stored has everything. Pure.

Payload, result and answers are bounded each, but together with what handlers said as they failed they may be too much.
A result that is not told is one for which its client waits for ever.
"""

from __future__ import annotations

from typing import Final

import orjson

from a2a_zmq.encoding import kept_json
from a2a_zmq.protocol.wire import MAX_FRAME_BYTES
from a2a_zmq.tasks import COMPLETED, FAILED, TERMINAL, Record

# What a record may have: the rest of a frame is for the message around it.
MOST_BYTES: Final = MAX_FRAME_BYTES - 16 * 1024
# Members of its metadata above this are left out first: attempts, detail, answers.
LARGE_BYTES: Final = 2048
ERROR_CHARS: Final = 4000
TOO_LARGE: Final = "too_large"


def sendable(raw: bytes) -> bytes:
    """The record as one message carries it; nearly always as it is. ``metadata.shortened`` names what was left out."""
    return raw if len(raw) <= MOST_BYTES else _shortened(raw)


def _shortened(raw: bytes) -> bytes:
    record: Record = orjson.loads(raw)
    metadata = record.get("metadata") or {}
    large = [name for name, value in metadata.items() if len(orjson.dumps(value)) > LARGE_BYTES]
    kept = {name: value for name, value in metadata.items() if name not in large}
    record["metadata"] = {**kept, "shortened": sorted(large)}
    if isinstance(error := record.get("error"), str):
        record["error"] = error[:ERROR_CHARS]
    shorter = kept_json(record)
    if len(shorter) > MOST_BYTES and record.pop("payload", None) is not None:
        record["metadata"]["shortened"] += ["payload"]
        shorter = kept_json(record)
    if len(shorter) > MOST_BYTES and record.get("status") in TERMINAL:
        size = len(shorter)
        if record["status"] == COMPLETED:
            record["status"] = FAILED
            record["error"] = f"its result is stored, but no message carries its {size} bytes"
            record["metadata"]["error_kind"] = TOO_LARGE
        record["result"] = None
        record["metadata"]["shortened"] += ["result"]
        shorter = kept_json(record)
    return shorter
