"""``python -m benchmarks.tracing``: what traces cost for one task, by tier: switched off, not sampled, sampled.

The cores of :mod:`benchmarks.cores`, with the exporter that daemons use; its thread encodes what it gets and throws it
away. ``exporter`` is that thread's processor time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import orjson
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from a2a_zmq.tracing.export import Exporter
from benchmarks.common import FULL, QUICK, Effort
from benchmarks.cores import cost_us
from daemons.cli.output import print_table

BATCH = 50
COLUMNS = ("traces", "coordinator", "distributor", "worker", "exporter")


class Encoder(SpanExporter):
    """Does what costs time, but for the network."""

    def __init__(self) -> None:
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


def measure(effort: Effort) -> dict[str, dict[str, float]]:
    """Setting → tier → microseconds a task."""
    report = {"off": {**cost_us(BATCH, effort), "exporter": 0.0}}
    for name, ratio in (("not sampled", 0.0), ("sampled", 1.0)):
        encoder = Encoder()
        exporter = Exporter("http://127.0.0.1:9", {"service.name": "benchmark"}, ratio=ratio, receiver=encoder)
        others = time.process_time() - time.thread_time()
        found = cost_us(BATCH, effort, exporter)
        exporter.close(60.0)
        others = time.process_time() - time.thread_time() - others
        tasks = max(1, encoder.spans // 6)  # accept, place, attempt, run, record, deliver
        report[name] = {**found, "exporter": round(others / tasks * 1e6, 2) if encoder.spans else 0.0}
    return report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description="Measure what traces cost.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="seconds instead of half a minute, less exact")
    args = parser.parse_args(argv)
    report = measure(QUICK if args.quick else FULL)
    if args.json:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        rows = [(name, *(found[column] for column in COLUMNS[1:])) for name, found in report.items()]
        print_table(COLUMNS, rows, title="Processor time a task, µs", right=",".join(COLUMNS[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
