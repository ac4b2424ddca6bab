"""What ``a2actl doctor`` sees of a real server."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest
from pydantic import SecretStr
from redis import Redis

from a2a_zmq.config import RedisConfig
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


def test_what_is_no_redis_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            self.request.sendall(b"HTTP/1.0 503 Service Unavailable\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        monkeypatch.setenv("REDIS_PORT", str(server.server_address[1]))
        (check,) = redis_checks.redis_checks(Invocation())
        server.shutdown()
    assert not check.ok
    assert "what answers there is no Redis: correct REDIS_HOST and REDIS_PORT" in check.fix


def test_a_server_that_is_open_to_all_is_named(tmp_path: Path) -> None:
    with EmbeddedRedis(state_dir=tmp_path) as server, Redis(port=server.port) as client:
        config = RedisConfig(port=server.port, username="fleet", password=SecretStr("secret"))
        wide = {"bind": "* -::*", "protected-mode": "no"}
        check = redis_checks._access(config, "here", wide.get)
        assert not check.ok
        assert "asks nobody for a password" in check.text
        for local in ({"bind": "127.0.0.1 -::1"}, {"bind": "*", "protected-mode": "yes"}):
            check = redis_checks._access(config, "here", local.get)
            assert check.ok
            assert "asks nobody for a password, but answers this host only" in check.text
        check = redis_checks._access(config, "here", lambda _: None)
        assert check.ok
        assert "cannot be seen from here" in check.text
        client.acl_setuser("fleet", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"])
        client.config_set("requirepass", "closed")
        check = redis_checks._access(config, "here", wide.get)
        assert (check.ok, check.text) == (True, "it asks for a password")
