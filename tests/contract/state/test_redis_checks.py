"""What ``a2actl doctor`` sees of a real server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import pytest
from redis import Redis

from daemons.cli import redis_checks
from daemons.cli.findings import Check
from daemons.cli.invocation import Invocation
from daemons.redis.embedded import EmbeddedRedis


def of_redis() -> Check:
    return next(check for check in redis_checks.redis_checks(Invocation()) if check.name == "redis")


def test_a_server_whose_files_another_one_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedRedis(state_dir=tmp_path) as server, Redis(port=server.port) as client:
        monkeypatch.setenv("REDIS_PORT", str(server.port))
        client.set("x", "value")
        assert of_redis().ok
        for file in (tmp_path / "redis/appendonlydir").iterdir():
            file.unlink()
        bad = of_redis()
        assert not bad.ok
        assert f"process {server.pid} writes to files in {tmp_path}/redis that were removed" in bad.text
        assert "BGREWRITEAOF" in bad.fix

        client.bgrewriteaof()
        deadline = time.monotonic() + 10
        while client.info("persistence")["aof_rewrite_in_progress"]:
            assert time.monotonic() < deadline, "all data is written anew"
            time.sleep(0.05)
        assert of_redis().ok
        server.kill()
        server.start()
        assert client.get("x") == b"value"


def access() -> list[Check]:
    return [check for check in redis_checks.redis_checks(Invocation()) if check.name in ("redis", "redis access")]


def test_a_user_who_may_not_enough_is_named_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedRedis(state_dir=tmp_path) as server, Redis(port=server.port) as client:
        monkeypatch.setenv("REDIS_PORT", str(server.port))
        _, free = access()
        assert free.ok
        assert "user default may do what the fleet needs" in free.text

        client.acl_setuser("fleet", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-xadd"])
        monkeypatch.setenv("A2A_REDIS_USERNAME", "fleet")
        monkeypatch.setenv("REDIS_PASSWORD", "secret")
        _, short = access()
        assert not short.ok
        assert "user fleet may not XADD, PUBLISH, SUBSCRIBE" in short.text
        client.execute_command(*short.fix.split("`")[1].split())
        assert access()[1].ok, "its own advice mends it"

        monkeypatch.setenv("REDIS_PASSWORD", "wrong")
        (refused,) = access()
        assert not refused.ok
        assert "REDIS_PASSWORD" in refused.fix


def test_a_user_who_may_hardly_anything_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedRedis(state_dir=tmp_path) as server, Redis(port=server.port) as client:
        client.acl_setuser("guest", enabled=True, nopass=True, keys=["*"], commands=["+get"])
        monkeypatch.setenv("REDIS_PORT", str(server.port))
        monkeypatch.setenv("A2A_REDIS_USERNAME", "guest")
        monkeypatch.setenv("REDIS_PASSWORD", "any")
        (check,) = access()
        assert check.ok
        assert "not looked at" in check.text
        assert check.fix


def test_a_server_that_is_open_to_all_is_named() -> None:
    class Server:
        def acl_whoami(self) -> str:
            return "default"

        def acl_getuser(self, name: str) -> dict[str, list[str]]:
            return {"flags": ["on", "nopass"]}

        def execute_command(self, *command: str) -> bytes:
            return b"OK"

    settings = {"bind": "* -::*", "protected-mode": "no"}
    check = redis_checks._access(cast("Redis", Server()), "here", settings.get)
    assert not check.ok
    assert "asks nobody for a password" in check.text
    assert redis_checks._access(cast("Redis", Server()), "here", {"bind": "127.0.0.1 -::1"}.get).ok
    assert redis_checks._access(cast("Redis", Server()), "here", {**settings, "protected-mode": "yes"}.get).ok
