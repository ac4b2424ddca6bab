"""The state of the whole fleet, as ``a2actl doctor`` has it compared (and repaired) by the coordinator."""

from __future__ import annotations

from typing import Any

from daemons.cli.findings import Check
from daemons.cli.invocation import DEFAULT_TIMEOUT_S, Invocation

# Findings that are listed on a terminal; ``--json`` has all that came.
LISTED = 20


def not_checked(why: str) -> Check:
    """The state could not be looked at."""
    return Check("state", False, f"not checked: {why}", "mend that first, then run `a2actl doctor` again")


def state_check(run: Invocation, *, repair: bool) -> Check:
    """Ask the coordinator to compare store, distributors and itself."""
    from a2a_zmq.client.links import LinkOpener
    from a2a_zmq.client.sync import FleetClient
    from a2a_zmq.errors import A2AError, RequestRefused

    settings = run.settings
    try:
        with FleetClient(
            list(settings.coordinator_address),
            client_id=settings.client_id,
            request_timeout_s=run.timeout_s or DEFAULT_TIMEOUT_S,
            opener=LinkOpener(settings.a2a_config(), settings.coordinator_id),
        ) as client:
            answer = client.audit(repair=repair)
    except RequestRefused as error:
        if error.code == "FORBIDDEN":
            # On the hosts of ordinary clients the rest of the doctor's checks is worth having.
            found = not_checked(f"only operators may ask for it, and this is {settings.client_id}")
            return found if repair else found._replace(ok=True, fix="")
        return not_checked(str(error))
    except A2AError as error:
        return not_checked(str(error))
    return judged(answer, repair=repair)


def judged(answer: dict[str, Any], *, repair: bool) -> Check:
    """The check of an answer to ``audit``."""
    findings = [row for row in answer.get("findings") or () if isinstance(row, dict)]
    total, repaired = int(answer.get("total") or 0), int(answer.get("repaired") or 0)
    checked = f"{int(answer.get('checked') or 0)} tasks checked"
    unseen = "".join(f"; not looked at: {line}" for line in answer.get("unchecked") or ())
    if not total:
        return Check("state", True, f"{checked}, consistent{unseen}")
    done = f", {repaired} repaired" if repair else ""
    text = f"{checked}, {total} not as they should be{done}{unseen}"
    if repair and repaired >= total:
        return Check("state", True, text, "", findings)
    can = sum(1 for row in findings if row.get("repair"))
    fix = "`a2actl doctor --repair` mends what has one right answer" if can and not repair else "look at each of them"
    if can < len(findings) and not repair and can:
        fix += f" ({can} of these {len(findings)}); look at the others"
    return Check("state", False, text, fix, findings)


def lines(check: Check) -> list[str]:
    """A check's findings for a terminal."""
    shown = [_line(row) for row in check.findings[:LISTED]]
    if len(check.findings) > LISTED:
        shown.append(f"and {len(check.findings) - LISTED} more (`--json` lists them)")
    return shown


def _line(row: Any) -> str:
    place = f"{row.get('task_id')} in {row.get('section')}" if row.get("task_id") else str(row.get("section") or "")
    mended = f" [repaired: {row.get('repair')}]" if row.get("repaired") else ""
    if not mended:
        mended = f" [can be repaired: {row.get('repair')}]" if row.get("repair") else " [only reported]"
    return f"{row.get('kind')}: {place + ': ' if place else ''}{row.get('what')}{mended}"
