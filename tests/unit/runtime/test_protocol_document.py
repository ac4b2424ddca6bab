"""docs/protocol.md says what the code does: its numbers, its reasons, its codes, and the tests that it names."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from a2a_zmq.clock import Now, parse_iso
from a2a_zmq.protocol import wire
from a2a_zmq.protocol.config import PortConfig
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.protocol.outbound import SIGNATURE_REASONS
from a2a_zmq.protocol.session import Session
from a2a_zmq.protocol.strict import MAX_DEPTH
from a2a_zmq.security import tokens
from a2a_zmq.transport.context import SocketOptions
from a2a_zmq.transport.pump import MAX_BATCH


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return re.sub(r"\s+", " ", (repository / "docs" / "protocol.md").read_text(encoding="utf-8"))


def test_the_frame_that_is_shown_is_one_of_ours(repository: Path) -> None:
    document = (repository / "docs" / "protocol.md").read_text(encoding="utf-8")
    shown = document.partition('```\n{"type"')[2].partition("\n```")[0].replace("\n", "")
    session = Session(
        me="worker-1",
        peer="distributor-1",
        pair_key=bytes(32),
        key_id="s1",
        spoke_nonce=bytes(16),
        hub_nonce=bytes(16),
        sid="7738a5c674d37ff1",
        version=1,
    )
    session.send_seq = 1
    time = "2025-11-28T10:30:00.000000Z"
    result = {"task_id": "t-1", "attempt": 1, "outcome": "completed", "result": None}
    payload = {
        "action": "task_results",
        "results": [{**result, "started_at": time, "execution_s": 0.001}],
        "limit": 4,
    }
    now = Now(0.0, parse_iso(time))
    frame = session.seal(MessageType.EVENT, orjson.dumps(payload), now, request_id="457c…0003", ack=1)
    assert ('{"type"' + shown).partition('"signature"')[0] == orjson.dumps(
        {**orjson.loads(frame), "signature": ""}
    ).decode().partition('"signature"')[0]


def test_every_test_that_is_named_exists(repository: Path, text: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 25
    defined: set[str] = set()
    for part in ("contract/transport", "unit/protocol", "unit/runtime"):
        for file in (repository / "tests" / part).glob("test_*.py"):
            defined |= set(re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert named - defined == set()


def test_every_refusal_of_the_code_is_explained(repository: Path, text: str) -> None:
    sources = [*(repository / "a2a_zmq" / "protocol").glob("*.py"), *(repository / "a2a_zmq" / "security").glob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    raised = set(re.findall(r'(?:Refused|_refuse)\("(\w+)"', code)) | SIGNATURE_REASONS
    assert {"frames", "size", "no_session", "forbidden", "version", "busy"} <= raised
    assert {reason for reason in raised if f"`{reason}`" not in text} == set()


def test_every_error_code_is_listed(repository: Path) -> None:
    messages = (repository / "docs" / "messages.md").read_text(encoding="utf-8")
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("a2a_zmq/protocol", "daemons/coordinator", "daemons/distributor", "daemons/worker")
        for path in (repository / folder).glob("*.py")
    )
    codes = set(re.findall(r'(?:"code": |code = |refuse\(\w+(?:\.\w+)*, )"([A-Z][A-Z_]+)"', code))
    assert {"MALFORMED", "RESYNC", "FORBIDDEN", "BUSY"} <= codes
    assert {each for each in codes if f"`{each}`" not in messages} == set()


def test_the_numbers_are_the_codes(text: str) -> None:
    config, options = PortConfig(), SocketOptions()
    for words in (
        f"last {wire.TAIL_BYTES} bytes",
        f"at most {MAX_DEPTH} levels",
        f"larger than {config.max_frame_bytes >> 20} MiB, no HELLO larger than {config.max_hello_bytes >> 10} KiB",
        f"after {config.hello_retry_min_s:g} s to {config.hello_retry_max_s:g} s",
        f"keeps {config.max_pending:,} answered HELLOs, each for {config.handshake_s:g} s",
        f"that is {config.max_skew_s:g} s off",
        f"room for a peer (R `busy`: {config.max_peers:,})",
        f"up to {config.outbox_max_messages:,} messages or {config.outbox_max_bytes >> 20} MiB",
        f"window of {config.window_messages} messages or {config.window_bytes >> 20} MiB",
        f"last {config.dedup_ids} request ids",
        f"after {config.ack_delay_s * 1000:g} ms or {config.ack_every} messages",
        f"| heartbeat | every {config.heartbeat_s * 1000:g} ms | every {config.lax_heartbeat_s:g} s |",
        f"| suspect after silence of | {config.suspect_s * 1000:g} ms |",
        f"| dead after silence of | {config.dead_s * 1000:g} ms | {config.lax_dead_s:g} s |",
        f"| dead after a broken connection | {config.grace_s * 1000:g} ms | {config.lax_dead_s:g} s |",
        f"takes a silent coordinator for dead after {4 * config.lax_heartbeat_s:g} s",
        f"({tokens.MAX_LIFE_S // 3600} h at most;",
        f"mint their own for {tokens.LIFE_S // 3600} h)",
        f"HWM {options.high_water_mark}",
        f"HANDSHAKE_IVL {options.handshake_ms // 1000} s",
        f"on ({options.heartbeat_ms} ms, timeout {options.heartbeat_timeout_ms} ms)",
        f"backlog {options.backlog:,}",
        f"{MAX_BATCH} frames",
    ):
        assert words in text, words
