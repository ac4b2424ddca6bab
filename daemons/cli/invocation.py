"""One run of ``a2actl``: its global options, and what commands need to do their work."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from daemons import host_files

if TYPE_CHECKING:
    import typer

    from a2a_zmq.client.sync import FleetClient
    from daemons.settings import ClientSettings

# Exit statuses, after sysexits.h where it has one. 0 is success and nothing else.
EX_FAILED = 1  # the answer is no: a task failed, a task or agent is unknown, a check found something
EX_USAGE = 2
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75  # not yet: a result did not come in time, or the fleet is busy
EX_CONFIG = 78
EX_INTERRUPTED = 130

OPERATOR = "operator"
CLIENT = "client"
DEFAULT_TIMEOUT_S = 30.0
# How often it is looked whether daemons that are just starting have made the fleet's keys.
KEYS_POLL_S = 0.1


T = TypeVar("T")


class CommandFailed(Exception):
    """The command did what it could; the text is one line for standard error, or "" if all was said."""

    def __init__(self, text: str = "", status: int = EX_FAILED) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Invocation:
    """Global options.

    Attributes:
        json: print JSON instead of tables.
        timeout_s: how long to wait for the fleet (and for results); None: the command's own default.
    """

    json: bool = False
    address: str | None = None
    key_dir: Path | None = None
    client_id: str | None = None
    timeout_s: float | None = None
    config: Path | None = None
    _settings: ClientSettings | None = field(default=None, repr=False)

    @property
    def settings(self) -> ClientSettings:
        """Flags over environment over ``.env`` over the file over the variables of the host's agents over defaults.

        Raises:
            ConfigError: one line that names the setting and its source.
        """
        if self._settings is None:
            from daemons.settings import ClientSettings
            from daemons.settings_sources import load

            host = host_files.SYSTEM / host_files.FOR_ALL
            flags = {"coordinator_address": self.address, "key_dir": self.key_dir, "client_id": self.client_id}
            given = {name: value for name, value in flags.items() if value is not None}
            found = load(ClientSettings, given, config=self.config, host=host)
            if "client_id" not in found.model_fields_set:
                # The operator's tool acts as the operator where that identity is at hand.
                found = found.model_copy(update={"client_id": self._own_identity(found)})
            self._settings = found
        return self._settings

    def _own_identity(self, settings: ClientSettings) -> str:
        if settings.token_secret is not None:
            return OPERATOR
        directory = settings.keys
        can_make = os.access(directory / "issuer.key", os.R_OK | os.W_OK)
        return OPERATOR if can_make or os.access(directory / f"{OPERATOR}.key", os.R_OK) else CLIENT

    def client(self, timeout_s: float | None = None) -> FleetClient:
        """A client of the fleet that the settings name. A fleet that is just being started for the first time has no
        keys for some seconds; these are waited for, as its coordinator is.

        Args:
            timeout_s: instead of ``--timeout``.

        Raises:
            ConfigError: settings or keys are not usable.
            FleetUnavailable: there are no keys in time.
        """
        from a2a_zmq.errors import FleetUnavailable, KeysMissing, KeysRevoked

        timeout_s = timeout_s or self.timeout_s or DEFAULT_TIMEOUT_S
        left_s, until = timeout_s, time.monotonic() + timeout_s
        while True:
            try:
                return self._client(left_s)
            except KeysRevoked:
                raise
            except KeysMissing as error:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    raise FleetUnavailable(f"{error} (waited for {timeout_s:g} s)") from None
                time.sleep(min(KEYS_POLL_S, left_s))
                left_s = max(KEYS_POLL_S, until - time.monotonic())
                self._settings = None  # with the keys comes the operator's identity

    def _client(self, timeout_s: float) -> FleetClient:
        from a2a_zmq.client.links import LinkOpener
        from a2a_zmq.client.sync import FleetClient

        settings = self.settings
        own_key = settings.keys / f"{settings.client_id}.key"
        new = not host_files.is_file(own_key)
        opener = LinkOpener(settings.a2a_config(), settings.coordinator_id)
        if new and "client_id" in settings.model_fields_set and host_files.is_file(own_key):
            text = f"{settings.client_id} is new here: keys of a client were made for it in {settings.keys}"
            print(f"a2actl: {text}", file=sys.stderr)
        return FleetClient(
            list(settings.coordinator_address),
            client_id=settings.client_id,
            request_timeout_s=timeout_s,
            unavailable_after_s=timeout_s,
            opener=opener,
            otlp_endpoint=settings.otlp_endpoint,
            trace_sample_ratio=settings.trace_sample_ratio,
        )

    def ask(self, question: Callable[[FleetClient], T], doing: str = "asking the fleet") -> T:
        """One request, with a client of its own; where it takes long, a terminal shows what is done.

        Raises:
            FleetError: no coordinator in reach, or it refused.
        """
        from daemons.cli.progress import Busy

        with Busy(doing, enabled=not self.json), self.client() as client:
            return question(client)

    def show(self, value: dict[str, Any], human: Callable[[], None]) -> None:
        """The command's answer: one JSON object on a line, or what ``human`` prints."""
        if self.json:
            print_json(value)
        else:
            human()


def invocation(ctx: typer.Context) -> Invocation:
    """The run that a command belongs to."""
    found = ctx.obj
    assert isinstance(found, Invocation)
    return found


def print_json(value: dict[str, Any]) -> None:
    import orjson

    # Texts from the network may hold anything that JSON can; orjson writes it on one line, with C0 escaped.
    text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    if sys.stdout.isatty() and not text.isprintable():
        from daemons.cli.tables import JOINER

        text = "".join(each if each.isprintable() or each == JOINER else json.dumps(each)[1:-1] for each in text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
