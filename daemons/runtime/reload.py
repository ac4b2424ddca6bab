"""SIGHUP: reads the settings again, and brings into use what may change while a daemon runs.

What may is said by each role's model (``live``, see :mod:`daemons.settings`). Settings that cannot be used change
nothing, and neither do those that need a restart: both are one line in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from a2a_zmq.errors import ConfigError
from daemons import logs
from daemons.runtime.contract import Meter
from daemons.settings import DaemonSettings, live_settings


class Reloader:
    """What SIGHUP does to one daemon's settings.

    Attributes:
        settings: those in use.
        read: reads them anew; None where they were given by a program, which has no sources.
        accepts: told of new settings before anything changes; raises ConfigError if they cannot be used.
        use: told of them afterwards, in order.
    """

    def __init__(self, settings: DaemonSettings, meter: Meter, log: Any, wall: Callable[[], float]) -> None:
        self.settings = settings
        self.read: Callable[[], DaemonSettings] | None = None
        self.accepts: Callable[[Any], object] = lambda _settings: None
        self.use: list[Callable[[Any], None]] = []
        self._meter = meter
        self._log = log
        self._wall = wall
        self._succeeded()

    def run(self) -> None:
        """Read and use them."""
        if self.read is None:
            return
        try:
            new, changed, kept = _merged(self.settings, self.read())
            self.accepts(new)
        except ConfigError as error:
            self._log.error("settings_not_reloaded", why=str(error))
            self._meter.gauge("config_last_reload_successful", 0)
            return
        was, self.settings = self.settings, new
        for use in self.use:
            use(new)
        told = {name: _shown(getattr(new, name)) for name in changed}
        if logs.LEVELS[new.log_level] <= logs.LEVELS[was.log_level]:  # in time for what follows to be seen …
            logs.set_level(new.log_level)
        self._log.info("settings_reloaded", changed=told)
        if kept:
            self._log.warning("settings_kept", settings=", ".join(kept), why="a change of these needs a restart")
        logs.set_level(new.log_level)  # … and not before it was said
        self._succeeded()

    def _succeeded(self) -> None:
        self._meter.gauge("config_last_reload_successful", 1)
        self._meter.gauge("config_last_reload_success_timestamp_seconds", self._wall())


def _merged(running: DaemonSettings, wanted: DaemonSettings) -> tuple[DaemonSettings, list[str], list[str]]:
    """The settings in use with those wanted ones that may change now; which these are, and which differ and stay.

    Raises:
        ConfigError: they do not fit together.
    """
    model = type(running)
    now = {name: getattr(running, name) for name in model.model_fields}
    differ = [name for name, value in now.items() if value != getattr(wanted, name)]
    live = live_settings(model)
    changed = [name for name in differ if name in live]
    try:
        new = model.model_validate(now | {name: getattr(wanted, name) for name in changed})
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return new, changed, [name for name in differ if name not in live]


def _shown(value: Any) -> Any:
    """A value as the log has it; of a table its names."""
    return sorted(value) if isinstance(value, dict) else value
