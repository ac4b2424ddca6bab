"""Settings of traces: of daemons, and of what submits tasks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from a2a_zmq.config import checked_receiver


def _receiver(value: Any) -> Any:
    return checked_receiver(value) if isinstance(value, str) else value


class TraceSettings(BaseModel):
    """See ``docs/tracing.md``."""

    otlp_endpoint: Annotated[str, BeforeValidator(_receiver)] = Field(
        "", description="OTLP receiver of traces, as http://127.0.0.1:4318; empty: there are none"
    )
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="share of the traces begun here that is reported; whoever submits a task begins it"
    )
