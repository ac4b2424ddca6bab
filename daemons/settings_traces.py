"""Settings of traces: of daemons, and of what submits tasks."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, Field


def _receiver(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return value
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("expected the URL of an OTLP receiver (protobuf over HTTP), as http://127.0.0.1:4318")
    return value


class TraceSettings(BaseModel):
    """See ``docs/tracing.md``."""

    otlp_endpoint: Annotated[str, BeforeValidator(_receiver)] = Field(
        "", description="OTLP receiver of traces, as http://127.0.0.1:4318; empty: there are none"
    )
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="share of the traces begun here that is reported; whoever submits a task begins it"
    )
