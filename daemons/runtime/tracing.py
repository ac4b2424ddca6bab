"""A daemon's traces: opened only where a receiver is named, and counted like everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from a2a_zmq.protocol.message import Role
from daemons import redaction
from daemons.runtime.contract import Meter
from daemons.settings import DaemonSettings
from daemons.settings_sources import suite_version

if TYPE_CHECKING:
    from a2a_zmq.tracing.export import Exporter


def resource(settings: DaemonSettings, role: Role) -> dict[str, str]:
    """Who reports spans."""
    return {
        "service.name": f"a2a-{role.value}",
        "service.instance.id": settings.agent_id,
        "service.version": suite_version(),
    }


def open_exporter(settings: DaemonSettings, role: Role) -> Exporter | None:
    """None, and nothing imported, where no receiver is named.

    Raises:
        ConfigError: one is named, and OpenTelemetry is not installed.
    """
    if not settings.otlp_endpoint:
        return None
    from a2a_zmq.tracing.export import Exporter, quiet

    quiet()
    who = resource(settings, role)
    return Exporter(settings.otlp_endpoint, who, ratio=settings.trace_sample_ratio, clean=redaction.text)


def counting(exporter: Exporter, meter: Meter, log: Any) -> Callable[[], None]:
    """A chore: what became of spans goes into the metrics, and a receiver that does not take them into the log."""

    def count() -> None:
        counts = exporter.counts()
        for outcome, number in counts._asdict().items():
            if number:
                meter.count("trace_spans_total", number, outcome=outcome)
        if counts.failed or counts.dropped:
            log.warning("spans_lost", not_taken=counts.failed, dropped=counts.dropped)

    return count
