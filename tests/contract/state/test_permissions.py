"""What ACL rules the fleet needs, as each server program sees them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.state.redis_store import RedisStore
from daemons.redis.embedded import EmbeddedRedis
from daemons.runtime import permissions
from daemons.runtime.permissions import ALL, GRAPHS, MODELS, STATE, Need, missing, require, rules
from tests.servers import KINDS, Servers

USER, PASSWORD = "somebody", "somebody's"


class Server:
    """One on which the test may make users."""

    def __init__(self, embedded: EmbeddedRedis) -> None:
        self.admin = redis.Redis(port=embedded.port)
        given = {"host": "127.0.0.1", "port": embedded.port, "username": USER, "password": SecretStr(PASSWORD)}
        self.config = RedisConfig.model_validate(given)

    def allow(self, *allowed: str) -> None:
        reset = ("reset", "on", f">{PASSWORD}")
        self.admin.execute_command("ACL", "SETUSER", USER, *reset, *allowed)  # type: ignore[no-untyped-call]

    def lacks(self, needs: tuple[Need, ...] = ALL) -> list[str]:
        return asyncio.run(missing(self.config, needs))


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Server]:
    found = Server(servers.get(request.param))
    yield found
    found.admin.execute_command("ACL", "DELUSER", USER)  # type: ignore[no-untyped-call]
    found.admin.close()


def test_the_rules_are_enough(server: Server) -> None:
    for needs in (ALL, STATE, GRAPHS, MODELS):
        server.allow(*rules(needs))
        assert server.lacks(needs) == []


def test_each_rule_that_is_missing_is_named(server: Server) -> None:
    everything = rules(ALL)
    for rule in everything:
        if rule == "+multi":  # without it nothing else can be looked at
            continue
        server.allow(*(each for each in everything if each != rule))
        assert server.lacks() == [rule]
    server.allow(*(each for each in everything if each != "+multi"))
    assert server.lacks() == ["+multi"]


def test_a_key_that_may_only_be_read_is_missing(server: Server) -> None:
    server.allow(*(each if each != "~shared:*" else "%R~shared:*" for each in rules(ALL)))
    assert server.lacks() == ["~shared:*"]


def test_nothing_is_written_by_looking(server: Server) -> None:
    server.admin.flushall()
    server.allow("+@all", "~*", "&*")
    assert server.lacks() == []
    server.allow(*(each for each in rules(ALL) if each != "+multi"))
    server.lacks()
    assert server.admin.dbsize() == 0


def test_a_user_without_restrictions_lacks_nothing(server: Server) -> None:
    config = server.config.model_copy(update={"username": None, "password": None})
    assert asyncio.run(missing(config, ALL)) == []


def test_what_is_missing_ends_a_start_with_one_clear_error(server: Server) -> None:
    server.allow(*(each for each in rules(STATE) if each not in ("+xadd", "~stream:{*")))
    with pytest.raises(StoreUnavailable) as caught:
        asyncio.run(require(server.config, STATE))
    assert caught.value.fatal
    assert str(caught.value) == "noauth: the ACL user 'somebody' lacks ~stream:{* +xadd" or (
        str(caught.value) == "noauth: the ACL user 'somebody' lacks +xadd ~stream:{*"
    )
    assert PASSWORD not in str(caught.value)


# Above all fences that other tests of this server have used.
LATER = 1000


def test_a_permission_that_is_taken_away_later_names_command_and_key(server: Server) -> None:
    async def write() -> None:
        store = RedisStore(server.config)
        try:
            await store.apply(SectionWrite(Section("d1", "distributor"), LATER, "m1", put_tasks={"t": b"{}"}))
        finally:
            await store.close()

    server.allow(*(each for each in rules(STATE) if each != "~*:{shared:*"), "~history:*", "~lease:*")
    with pytest.raises(StoreUnavailable, match=r"NOPERM.*\(HSET tasks:\{shared:distributor:d1\}\)"):
        asyncio.run(write())
    server.allow(*(each for each in rules(STATE) if each != "+hset"))
    with pytest.raises(StoreUnavailable, match=r"NOPERM.*'hset'.*\(HSET "):
        asyncio.run(write())


def test_every_command_that_is_asked_for_is_one_that_the_code_has(repository: Path) -> None:
    """The least that is needed stays the least: what the code does not use any more is to be taken out."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (repository / "a2a_zmq").rglob("*.py"))
    sources += (repository / "daemons/worker/graphs/telling.py").read_text(encoding="utf-8")
    of_client = {"evalsha", "select", "client|setname", "eval"}
    for need in {need.name for need in (*STATE, *GRAPHS, *MODELS)} - of_client:
        used = re.search(rf"""["']{need.upper()}["']|\.{need}\(""", sources)
        assert used, f"+{need}"


def test_the_documented_line_is_the_one_that_is_needed(repository: Path) -> None:
    text = (repository / "docs" / "redis.md").read_text(encoding="utf-8")
    assert permissions.acl_line("a2a", "PASSWORD", ALL) in text, "`a2actl config acl` prints it"
