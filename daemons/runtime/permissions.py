"""What the fleet asks of Redis: commands, keys and channels that an ACL user of it must have, and which it lacks.

Redis tells that something is not allowed when it is tried, and of a key not even which. So each command is tried on a
key of each kind at the start of a daemon (and by ``a2actl doctor``), inside a transaction that is never carried out:
permissions are looked at when a command is queued.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import hiredis

from a2a_zmq.checkpoint import keys as checkpoint_keys
from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import INBOX, Section
from a2a_zmq.llm import keys as llm_keys
from a2a_zmq.state import keys
from a2a_zmq.state.wire import Command, open_wire, pack, to_state_error

# A distributor, task, thread and provider that nobody has: only permissions are looked at, nothing is written.
_NOBODY: Final = "a2a-permissions"

# How an EXEC is refused begins with this.
_OF_EXEC: Final = "EXECABORT Transaction discarded because of: "

# What follows the key, so that the command is well formed.
_WORDS: Final[dict[str, tuple[str | int, ...]]] = {
    "DEL": (),
    "EXPIRE": (1,),
    "GET": (),
    "HDEL": ("f",),
    "HEXISTS": ("f",),
    "HGET": ("f",),
    "HGETALL": (),
    "HINCRBY": ("f", 1),
    "HKEYS": (),
    "HLEN": (),
    "HMGET": ("f",),
    "HSCAN": (0,),
    "HSET": ("f", "v"),
    "HSETNX": ("f", "v"),
    "HSTRLEN": ("f",),
    "PERSIST": (),
    "PEXPIRE": (1,),
    "PTTL": (),
    "SET": ("v",),
    "TYPE": (),
    "UNLINK": (),
    "WATCH": (),
    "XADD": ("1-1", "f", "v"),
    "XRANGE": ("-", "+"),
    "XREVRANGE": ("+", "-"),
    "ZADD": (1, "m"),
    "ZCARD": (),
    "ZLEXCOUNT": ("-", "+"),
    "ZRANGE": (0, 1),
    "ZRANGEBYLEX": ("-", "+"),
    "ZRANGEBYSCORE": (0, 1),
    "ZRANK": ("m",),
    "ZREM": ("m",),
    "ZREVRANGE": (0, 1),
    "ZREVRANGEBYLEX": ("+", "-"),
    "ZSCORE": ("m",),
}


class Need(NamedTuple):
    """A command on a key or channel, or on neither.

    Attributes:
        name: of the command, as ACL rules have it.
        words: the whole command.
        pattern: which keys or channels the rule for it names; "" where it has none.
    """

    name: str
    words: Command
    pattern: str = ""


def _on(key: str, pattern: str, commands: str) -> list[Need]:
    return [Need(name.lower(), (name, key, *_WORDS[name]), f"~{pattern}") for name in commands.split()]


def _script(key: str, pattern: str, *, by_name: bool) -> list[Need]:
    names = ("EVAL", "EVALSHA") if by_name else ("EVAL",)
    return [Need(name.lower(), (name, "return 1", 1, key), f"~{pattern}") for name in names]


_PLAIN: Final = [
    Need("ping", ("PING",)),
    Need("client|setname", ("CLIENT", "SETNAME", _NOBODY)),
    Need("select", ("SELECT", 0)),
    Need("multi", ("MULTI",)),  # by which all else is looked at
]
_OWN: Final = "shared:*"  # the specification's keys
_TAGGED: Final = "*:{shared:*"
_HEADER: Final = Section(_NOBODY, "distributor")


def _state() -> list[Need]:
    needs = [
        *_PLAIN,
        Need("exec", ("EXEC",)),
        Need("unwatch", ("UNWATCH",)),
        Need("scan", ("SCAN", 0)),
        Need("time", ("TIME",)),
    ]
    needs += _on(keys.header(_HEADER), _OWN, "WATCH HMGET HGET HSET PTTL TYPE")
    needs += _on(keys.header(Section(INBOX, "coordinator")), _OWN, "HSET")
    needs += _on(keys.header(Section(_NOBODY, "coordinator")), _TAGGED, "WATCH HMGET HSET")
    needs += _on(keys.tasks(_NOBODY), _TAGGED, "HSET HDEL HGET HMGET HGETALL HLEN HSCAN")
    needs += _on(keys.results(_HEADER, 1), _TAGGED, "HSET HGET HMGET HSCAN EXPIRE UNLINK")
    needs += _on(keys.dead(_NOBODY), _TAGGED, "ZADD ZREM ZCARD ZRANGE ZREVRANGE ZRANGEBYSCORE PEXPIRE")
    needs += _on(keys.letters(_NOBODY), _TAGGED, "HGET HMGET HSET HDEL HSTRLEN DEL PEXPIRE")
    needs += _on(keys.history(_NOBODY), _TAGGED, "XADD XREVRANGE")
    needs += _on(keys.lease(_HEADER), _TAGGED, "GET SET DEL PTTL PEXPIRE")
    needs += _on(keys.registry(), _TAGGED, "HSETNX HEXISTS HKEYS")
    needs += _on(keys.stream(_NOBODY), "stream:{*", "XRANGE")
    needs += _script(keys.tasks(_NOBODY), _TAGGED, by_name=False)
    channel = keys.events(_NOBODY)
    needs.append(Need("publish", ("PUBLISH", channel, "v"), "&events:{shared:*"))
    needs.append(Need("subscribe", ("SUBSCRIBE", channel), "&events:{shared:*"))
    return needs


def _graphs() -> list[Need]:
    of = dict(zip((kind.name for kind in checkpoint_keys.KEY_CLASSES), _thread_keys(), strict=True))
    pattern = f"{{{checkpoint_keys.DEFAULT_PREFIX}:*"
    needs = [*_PLAIN, Need("exec", ("EXEC",)), Need("time", ("TIME",))]
    needs += _script(of["facts"], pattern, by_name=True)
    needs += _on(of["facts"], pattern, "HGET HSET HDEL HINCRBY HEXISTS HMGET HSTRLEN PEXPIRE PERSIST UNLINK")
    needs += _on(of["index"], pattern, "ZADD ZREM ZRANGEBYLEX ZREVRANGEBYLEX ZLEXCOUNT ZRANGE")
    needs += _on(of["fence"], pattern, "GET SET")
    needs += _on(of["claims"], pattern, "HGETALL")
    needs += _on(of["threads"], pattern, "ZADD ZREM ZCARD ZRANGEBYSCORE")
    needs += _on(of["sizes"], pattern, "DEL")
    return needs + _on(keys.stream(_NOBODY), "stream:{*", "XADD XREVRANGE EXPIRE")


def _thread_keys() -> tuple[str, ...]:
    return checkpoint_keys.of_thread(checkpoint_keys.DEFAULT_PREFIX, _NOBODY)


def _models() -> list[Need]:
    names = (kind.name for kind in llm_keys.KEY_CLASSES)
    of = dict(zip(names, llm_keys.of_provider(_NOBODY), strict=True))
    needs = [*_PLAIN, Need("time", ("TIME",)), *_script(of["window"], "{llm:*", by_name=True)]
    needs += _on(of["window"], "{llm:*", "HGETALL HGET HDEL HINCRBY HEXISTS PEXPIRE")
    needs += _on(of["calls"], "{llm:*", "HGET HSET HDEL")
    needs += _on(of["running"], "{llm:*", "ZADD ZREM ZCARD ZSCORE ZRANGEBYSCORE")
    needs += _on(of["queue"], "{llm:*", "ZRANK ZRANGE")
    return needs + _on(of["pause"], "{llm:*", "SET PTTL")


# Coordinators and distributors; workers that run graphs; those with budgets of chat models; `a2actl doctor`.
STATE: Final = tuple(_state())
GRAPHS: Final = tuple(_graphs())
MODELS: Final = tuple(_models())
DOCTOR: Final = (Need("info", ("INFO", "server")), Need("config|get", ("CONFIG", "GET", "dir")))
ALL: Final = (*STATE, *GRAPHS, *MODELS, *DOCTOR)


def rules(needs: Iterable[Need]) -> list[str]:
    """The ACL rules that allow this and nothing else: patterns first, then commands."""
    found = list(needs)
    patterns = dict.fromkeys(need.pattern for need in found if need.pattern)
    return [*patterns, *sorted({f"+{need.name}" for need in found})]


def acl_line(user: str, password: str, needs: Iterable[Need]) -> str:
    """For ``users.acl`` or behind ``user`` in ``redis.conf``."""
    return " ".join([f"user {user} on >{password}", "resetkeys resetchannels -@all", *rules(needs)])


async def missing(config: RedisConfig, needs: Sequence[Need]) -> list[str]:
    """The ACL rules that our user lacks; nothing where Redis asks for none.

    Raises:
        StoreUnavailable: Redis cannot be reached, or does not let us in.
    """
    wire = await open_wire(config, "")
    found: dict[str, None] = {}

    async def tried(some: list[Need]) -> list[Any]:
        replies = await wire.exchange(pack([need.words for need in some]), len(some), config.connect_timeout_s)
        for need, reply in zip(some, replies, strict=True):
            if refused := _refused(reply):
                found[f"+{need.name}" if refused == "command" else need.pattern] = None
        return replies

    try:
        # These three are not queued. EXEC is an error here anyhow, but another one if it is not allowed.
        at_once = [need for need in needs if need.name in ("exec", "select", "watch")]
        *_, begun = await tried([*at_once, Need("multi", ("MULTI",))])
        if not isinstance(begun, Exception):  # outside of a transaction these would be carried out
            await tried([need for need in needs if need not in at_once and need.name != "multi"])
        elif not _refused(begun):
            raise to_state_error(begun)
        return list(found)
    except (OSError, hiredis.ProtocolError) as error:
        raise to_state_error(error) from error
    finally:
        wire.close()  # which gives the transaction up


def _refused(reply: object) -> str:
    """``command`` or ``name`` (of a key or channel) if that is not allowed, else ""."""
    text = str(reply)
    if not isinstance(reply, Exception) or not text.removeprefix(_OF_EXEC).startswith("NOPERM"):
        return ""
    return "command" if re.search(r"'[^']+' (sub)?command", text) else "name"


async def require(config: RedisConfig, needs: Sequence[Need]) -> None:
    """
    Raises:
        StoreUnavailable: a permission is missing (then it is ``fatal``, and the text has the rules); or as in
            :func:`missing`.
    """
    lacks = await missing(config, needs)
    if lacks:
        user = config.username or "default"
        raise StoreUnavailable("noauth", f"the ACL user {user!r} lacks {' '.join(lacks)}", fatal=True)
