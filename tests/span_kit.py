"""Spans that the code under test records, kept in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rewards_core import tracing


class Spans:
    """The spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()

    def __len__(self) -> int:
        return len(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans of a name, in the order in which they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def names(self) -> list[str]:
        """Return the names, each once, in the order in which the first of them ended."""
        return list(dict.fromkeys(span.name for span in self._exporter.get_finished_spans()))

    def one(self, name: str) -> ReadableSpan:
        """Return the only span of a name."""
        names = [span.name for span in self._exporter.get_finished_spans()]
        assert names.count(name) == 1, names
        return self.named(name)[0]

    def text(self) -> str:
        """Return everything that is exported."""
        return json.dumps([json.loads(span.to_json()) for span in self._exporter.get_finished_spans()])

    def set_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set up the SDK as a program does once, until the test is over."""
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        monkeypatch.setattr(tracing, "_ask_at", 0.0)
        assert tracing.recording()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """The spans of a process with the SDK."""
    found = Spans()
    found.set_up(monkeypatch)
    yield found
    monkeypatch.undo()
    tracing.recording()  # so that nothing refers to this provider


def context_of(span: ReadableSpan) -> tuple[int, int]:
    """Return the ids of the trace and of the span."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    """Return the ids of what a span is linked to."""
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    """Return the ids of a span's parent."""
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)
