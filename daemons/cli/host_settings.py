"""The settings of this host's agents, ``/etc/a2a-zmq``, as ``a2actl doctor`` and failed commands see them."""

from __future__ import annotations

from daemons import host_files
from daemons.cli.findings import Check
from daemons.cli.invocation import CommandFailed

NAME = "host's settings"


def host_settings() -> list[Check]:
    """What ``a2actl config check`` says of them; nothing on a host that has none."""
    from daemons.cli.config_checks import look
    from daemons.cli.config_targets import targets

    if not host_files.SYSTEM.is_dir():
        return []
    try:
        report = look(targets(host_files.SYSTEM, None))
    except CommandFailed:
        return [Check(NAME, True, f"not known: {unknown()}", "run this as root")]
    if not report.findings:
        return [Check(NAME, True, f"no mistakes in {', '.join(report.files) or host_files.SYSTEM}")]
    more = f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
    fix = "`a2actl config check` names each"
    return [Check(NAME, not report.errors, f"{report.findings[0].text()}{more}", fix)]


def unknown() -> str:
    """Why a2actl does not know the variables of the host's agents, "" if it does."""
    path = host_files.SYSTEM / host_files.FOR_ALL
    problem = host_files.unreadable(path)
    return f"{path} may not be read by this user ({problem}), so what it sets does not count here" if problem else ""
