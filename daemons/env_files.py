"""``.env`` files: one reader for the settings and for the projects of users."""

from __future__ import annotations

from pathlib import Path

from a2a_zmq.errors import ConfigError
from daemons.host_files import is_file


def env_file_in(directory: Path) -> Path | None:
    """Its ``.env``, None if it has none; a directory that may not be entered has none."""
    path = directory / ".env"
    return path if is_file(path) else None


def read_env_file(path: Path) -> dict[str, str]:
    """``NAME=value`` lines; ``#`` comments, ``export`` and quotes as shells have them, no expansion.

    Raises:
        ConfigError: names file and line.
    """
    values: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason}") from None
    for number, raw in enumerate(lines, 1):
        line = raw.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(f"{path}, line {number}: expected NAME=value")
        value = value.strip()
        if value[:1] in ("'", '"'):
            quote = value[0]
            end = value.find(quote, 1)
            if end < 0:
                raise ConfigError(f"{path}, line {number}: {quote} is not closed")
            value = value[1:end]
        else:
            value = value.partition(" #")[0].rstrip()
        values[name.strip()] = value
    return values
