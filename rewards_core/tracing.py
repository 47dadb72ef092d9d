"""Spans of OpenTelemetry, recorded where the process has set up its SDK. No other module imports OpenTelemetry.

It is not imported before the process has done so: until then there is no SDK, and nothing to record. What the SDK raises is
logged once and goes no further, so that a faulty sampler or span processor costs spans and not deliveries.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Literal, Self

from rewards_core.text import one_line
from rewards_core.validation import check_name

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from opentelemetry import trace
    from opentelemetry.context import Context as OtelContext

    from rewards_core.observe import CallEnded, CallRetried, CallStarted

    SpanContext = trace.SpanContext

logger = logging.getLogger(__name__)

Attributes = Mapping[str, str | int | float | bool | None]
"""The attributes of a span; those that are None are left out."""
Kind = Literal["internal", "server", "consumer"]

_MAX_LENGTH = 256
_ASK_AGAIN = 1.0
"""Seconds for which the answer that there is no SDK yet is believed: asking takes longer than the rest of an unrecorded span."""

_broken = False
_told = False
_find_provider: Callable[[], trace.TracerProvider] | None = None
_provider: trace.TracerProvider | None = None
_tracer: trace.Tracer | None = None
_ask_at = 0.0


class _Guard:
    """Keeps what the SDK raises away from the code that is recorded; only calls of the SDK may be inside."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        global _told
        if not isinstance(error, Exception):
            return False
        if not _told:
            _told = True
            logger.warning(
                "the OpenTelemetry SDK failed, so spans may be missing; nothing else is affected. Correct the sampler or the "
                "span processor. Further failures are not logged",
                exc_info=error,
            )
        return True


_guarded = _Guard()


class Span:
    """A span that nothing records. Like one that is recorded, it is used in `with`, inside which it is the current span."""

    __slots__ = ()

    @property
    def context(self) -> SpanContext | None:
        """What links lead to; None if the span is not recorded."""
        return None

    def rename(self, name: str) -> None:
        """Replace the name."""

    def note(self, attributes: Attributes) -> None:
        """Add attributes."""

    def link(self, context: SpanContext | None) -> None:
        """Add a link to another span, if there is one."""

    def event(self, name: str, attributes: Attributes) -> None:
        """Add something that happened."""

    def fail(self, error: str) -> None:
        """Mark it as failed, with the name of the error and without its text, which may hold data of people."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End the span; an error marks it as failed."""


UNRECORDED = Span()
_TRACEPARENT_LENGTH = 55


class _RecordedSpan(Span):
    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token: Token[OtelContext] | None = None

    @property
    def context(self) -> SpanContext | None:
        with _guarded:
            return self._span.get_span_context()
        return None

    def rename(self, name: str) -> None:
        with _guarded:
            self._span.update_name(one_line(name, _MAX_LENGTH))

    def note(self, attributes: Attributes) -> None:
        with _guarded:
            self._span.set_attributes(_clean(attributes))

    def link(self, context: SpanContext | None) -> None:
        if context is not None:
            with _guarded:
                self._span.add_link(context)

    def event(self, name: str, attributes: Attributes) -> None:
        with _guarded:
            self._span.add_event(name, _clean(attributes))

    def fail(self, error: str) -> None:
        with _guarded:
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - needs an extra

            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))

    def __enter__(self) -> Self:
        with _guarded:
            from opentelemetry.context import attach  # noqa: PLC0415 - needs an extra
            from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - needs an extra

            self._token = attach(set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self.fail(kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}")
        if self._token is not None:
            with _guarded:
                from opentelemetry.context import detach  # noqa: PLC0415 - needs an extra

                detach(self._token)
        with _guarded:
            self._span.end()


def recording() -> bool:
    """Return whether an SDK records spans; one that was set up less than a second ago may not be known yet."""
    return _find_tracer() is not None


def start_span(
    name: str,
    attributes: Attributes,
    *,
    kind: Kind = "internal",
    remote: Mapping[str, str] | None = None,
    root: bool = False,
    link: SpanContext | None = None,
) -> Span:
    """Start a span below the current one; `UNRECORDED` without an SDK, or if it fails.

    Args:
        name: A name with few different values.
        attributes: Neither secrets nor data of people.
        kind: Its kind.
        remote: Headers in which the sender's `traceparent` is the parent instead of the current span.
        root: Whether it begins a trace of its own.
        link: Another span that it belongs to.
    """
    tracer = _find_tracer()
    if tracer is None:
        return UNRECORDED
    with _guarded:
        from opentelemetry.context import Context  # noqa: PLC0415 - needs an extra
        from opentelemetry.propagate import extract  # noqa: PLC0415 - needs an extra
        from opentelemetry.trace import Link, SpanKind  # noqa: PLC0415 - needs an extra

        return _RecordedSpan(
            tracer.start_span(
                one_line(name, _MAX_LENGTH),
                extract(_sent_by(remote), Context()) if remote is not None else Context() if root else None,
                SpanKind[kind.upper()],
                _clean(attributes),
                () if link is None else (Link(link),),
            )
        )
    return UNRECORDED


def _sent_by(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the sender's `traceparent` and nothing else: strangers must not fill the log, or pass on baggage."""
    parent = headers.get("traceparent", "")
    return {"traceparent": parent} if len(parent) == _TRACEPARENT_LENGTH else {}


class CallSpans:
    """An observer that makes a span of each logical call, with an event for each retry.

        Client.from_env(observers=[CallSpans("shop")])

    Its kind is internal: it covers all attempts, and the client spans of HTTP requests are its children, if an instrumentation of
    aiohttp's client makes them. Neither the path of a call, which may hold the uid of a user, nor its key is recorded.

    Args:
        vendor: The first word of each span's name.

    Raises:
        TypeError: `vendor` is not a str.
        ValueError: `vendor` is empty.
    """

    def __init__(self, vendor: str) -> None:
        self._vendor = check_name(vendor, "vendor")

    def on_start(self, call: CallStarted) -> None:
        """Start a span."""
        span = start_span(f"{self._vendor}.{call.operation}", {"http.request.method": call.method})
        _calls.set((span.__enter__(), _calls.get()))

    def on_retry(self, retry: CallRetried) -> None:
        """Add an event."""
        if (calls := _calls.get()) is not None:
            about = {"rewards.attempt": retry.attempt, "http.response.status_code": retry.status, "rewards.delay": retry.delay}
            calls[0].event("retry", about)

    def on_end(self, call: CallEnded) -> None:
        """End the span."""
        if (calls := _calls.get()) is None:
            return
        span, outer = calls
        _calls.set(outer)
        span.note(
            {
                "rewards.attempts": call.attempts,
                "http.response.status_code": call.status,
                "rewards.outcome_unknown": call.outcome_unknown or None,
            }
        )
        if call.error is not None:
            span.fail(call.error)
        span.__exit__(None, None, None)


_Calls = tuple[Span, "_Calls | None"]
_calls: ContextVar[_Calls | None] = ContextVar("rewards_core.tracing.calls", default=None)
"""The innermost call in this task and the calls around it: a call may look up a nonce or renew a token by another."""


def _find_tracer() -> trace.Tracer | None:
    global _ask_at, _broken, _find_provider, _provider, _tracer
    if _broken or "opentelemetry.trace" not in sys.modules or (_tracer is None and monotonic() < _ask_at):
        return None
    try:
        if _find_provider is None:
            from opentelemetry.trace import get_tracer_provider  # noqa: PLC0415 - needs an extra

            _find_provider = get_tracer_provider
        provider = _find_provider()
        if provider is not _provider:
            from opentelemetry.trace import ProxyTracerProvider  # noqa: PLC0415 - needs an extra

            _tracer = None
            if not isinstance(provider, ProxyTracerProvider):
                import opentelemetry.propagate  # noqa: F401, PLC0415 - needs an extra; loads what OTEL_PROPAGATORS names

                _tracer = provider.get_tracer("rewards_async")
            _provider = provider
    except Exception as problem:  # noqa: BLE001 - no delivery may fail because of a wrong setting of OpenTelemetry
        _broken = True
        logger.warning("no spans are recorded, because OpenTelemetry is set up wrongly: %s", problem)
        return None
    if _tracer is None:
        _ask_at = monotonic() + _ASK_AGAIN
    return _tracer


def _clean(attributes: Attributes) -> dict[str, str | int | float | bool]:
    found = {name: value for name, value in attributes.items() if value is not None}
    return {name: one_line(value, _MAX_LENGTH) if isinstance(value, str) else value for name, value in found.items()}
