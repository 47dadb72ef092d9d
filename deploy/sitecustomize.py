"""Set up the OpenTelemetry SDK in each Python process that has this file's folder on PYTHONPATH."""  # noqa: INP001 - a folder for PYTHONPATH

import os
from importlib.metadata import entry_points

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

(exporter,) = entry_points(group="opentelemetry_traces_exporter", name=os.environ["OTEL_TRACES_EXPORTER"])
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
trace.set_tracer_provider(provider)
