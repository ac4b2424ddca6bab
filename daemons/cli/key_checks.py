"""Key files of this host, as ``a2actl doctor`` sees them: who can read them, how old they are, when tokens expire."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daemons.cli.findings import Check
from daemons.cli.invocation import Invocation
from daemons.cli.output import duration

# Keys are rotated while the fleet runs, so there is no reason to keep one for longer.
OLD_S: Final = 365 * 86_400.0
# An exported token lives for a day, and a daily job brings the next one: below this it has missed its turn.
LATE_S: Final = 3_600.0
# Rights that nobody but the owner may have, by the end of the name.
FORBIDDEN: Final = {".key": 0o077, ".jwt": 0o077, ".pub": 0o022, ".json": 0o022}


def key_checks(run: Invocation) -> list[Check]:
    """Whether the keys work, and the files they are in."""
    from a2a_zmq.client.links import LinkOpener
    from a2a_zmq.errors import ConfigError

    settings = run.settings
    try:
        LinkOpener(settings.a2a_config(), settings.coordinator_id).close()
    except ConfigError as error:
        fix = "`a2actl keys init` on the issuing host, `a2actl keys export` for others"
        return [Check("keys", False, str(error), fix)]
    if settings.token_secret is not None:
        return [Check("keys", True, f"{settings.client_id} in shared secret")]
    directory = settings.key_path.parent if settings.key_path is not None else settings.keys
    found = Check("keys", True, f"{settings.client_id} in {directory}")
    return [found, permissions(directory), ages(directory, time.time())]


def permissions(directory: Path) -> Check:
    """Nobody else may read secrets, or write what is trusted."""
    wrong = list(_too_open(directory))
    if wrong:
        names = ", ".join(f"{path} is {mode:04o}" for path, mode, _ in wrong[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        fix = "; ".join(f"`chmod {right:04o} {path}`" for path, _, right in wrong[:5])
        return Check("key permissions", False, f"others have rights on key files: {names}{more}", fix)
    return Check("key permissions", True, f"only their owner can read the secrets in {directory}")


def _too_open(directory: Path) -> Iterator[tuple[Path, int, int]]:
    """(path, its mode, the mode that it should have)."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        yield directory, mode, 0o700
    for path in sorted(directory.iterdir()):
        forbidden = FORBIDDEN.get(path.suffix, 0)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & forbidden:
            yield path, mode, mode & ~forbidden


def ages(directory: Path, wall: float) -> Check:
    """The oldest key whose secret is here, and tokens that nobody renews."""
    keys = {path.stem: wall - path.stat().st_mtime for path in directory.glob("*.key") if path.name != "issuer.key"}
    expired = {} if os.access(directory / "issuer.key", os.R_OK) else dict(_tokens_left(directory, wall))
    late = {name: left_s for name, left_s in expired.items() if left_s < LATE_S}
    if late:
        name, left_s = min(late.items(), key=lambda each: each[1])
        told = f"expired {duration(-left_s)} ago" if left_s < 0 else f"expires in {duration(left_s)}"
        fix = (
            f"`a2actl keys export {name} DIRECTORY` on the issuing host, and bring it here; a daily job does it in time"
        )
        return Check("key ages", left_s >= 0, f"the token of {name} in {directory} {told}", fix)
    if not keys:
        return Check("key ages", True, f"no secret keys in {directory}")
    name, age_s = max(keys.items(), key=lambda each: each[1])
    text = f"{len(keys)} keys here, the oldest is {name}'s: {duration(age_s)}"
    if age_s > OLD_S:
        return Check("key ages", True, text, f"`a2actl keys rotate {name}`; sessions go on")
    return Check("key ages", True, text)


def _tokens_left(directory: Path, wall: float) -> Iterator[tuple[str, float]]:
    """Seconds until each token here expires."""
    import jwt

    for path in sorted(directory.glob("*.jwt")):
        try:
            # Only to know its date: that it is genuine is for whoever is shown it to check.
            claims = jwt.decode(path.read_text().strip(), options={"verify_signature": False})
            yield path.stem, float(claims["exp"]) - wall
        except (OSError, jwt.PyJWTError, KeyError, ValueError):
            continue
