"""Spans of deliveries, handlers and waits, and the links between them.

Handlers and waits are linked to the delivery that caused them. The links are kept beside the store object that the receiver uses:
what another process, or another store object, has received has none.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from attrs import frozen

from rewards_core.tracing import UNRECORDED, Span, recording, start_span
from webhooks.store.queries import operations_of

if TYPE_CHECKING:
    from rewards_core.operations import Event, OperationRef
    from rewards_core.tracing import Attributes, SpanContext
    from webhooks.delivery_log import Verdict
    from webhooks.store.base import Store
    from webhooks.store.records import Job, Via

MAX_KEPT = 10_000


@frozen
class _Mention:
    """The last delivery about an operation, and whether its event settled it."""

    identity: bytes
    settles: bool
    context: SpanContext


class DeliveryLinks:
    """The spans of the last deliveries of one store, by event and by operation."""

    def __init__(self) -> None:
        self._by_event: OrderedDict[bytes, SpanContext] = OrderedDict()
        self._by_operation: OrderedDict[OperationRef, _Mention] = OrderedDict()

    def of_event(self, event: Event) -> SpanContext | None:
        """Return the delivery that brought an event."""
        return self._by_event.get(event.identity)

    def of_operation(self, ref: OperationRef) -> SpanContext | None:
        """Return the delivery that settled an operation, or else the last one that mentioned it."""
        mention = self._by_operation.get(ref)
        return None if mention is None else mention.context

    def remember(self, event: Event, context: SpanContext) -> None:
        """Keep the delivery of an event, unless one is kept."""
        if event.identity in self._by_event:
            return
        self._by_event[event.identity] = context
        for ref in operations_of(event):
            known = self._by_operation.get(ref)
            if known is None or not known.settles:
                self._by_operation[ref] = _Mention(event.identity, event.resource is not None and ref == event.ref, context)
        for kept in (self._by_event, self._by_operation):
            while len(kept) > MAX_KEPT:
                kept.popitem(last=False)

    def forget(self, event: Event, context: SpanContext) -> None:
        """Forget a delivery that was not stored."""
        if self._by_event.get(event.identity) is context:
            del self._by_event[event.identity]
            for ref in operations_of(event):
                known = self._by_operation.get(ref)
                if known is not None and known.identity == event.identity:
                    del self._by_operation[ref]


_links: WeakKeyDictionary[Store, DeliveryLinks] = WeakKeyDictionary()


def links_of(store: Store) -> DeliveryLinks:
    """Return the links of a store object, the same for all that use it."""
    try:
        return _links.setdefault(store, DeliveryLinks())
    except TypeError:  # a store of the user's own that no dictionary takes
        return DeliveryLinks()


def delivery_span(event: Event, links: DeliveryLinks) -> Span:
    """Return the span of storing a signed delivery, to which the handlers and waits that it causes are linked."""
    if not recording():
        return UNRECORDED
    span = start_span("rewards.delivery", _about(event))
    context = span.context
    if context is not None and event.problem is None:
        links.remember(event, context)
    return span


def note_verdict(span: Span, event: Event, verdict: Verdict, links: DeliveryLinks) -> None:
    """Say what became of a delivery."""
    span.note({"rewards.delivery.verdict": verdict})
    if verdict == "not kept":
        span.fail("not_kept")
        if span.context is not None:
            links.forget(event, span.context)


def handler_span(event: Event, job: Job, links: DeliveryLinks) -> Span:
    """Return the span of a handler's run on an event."""
    if not recording():
        return UNRECORDED
    attributes: Attributes = {
        **_about(event),
        "messaging.system": "rewards_async",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": event.name,
        "messaging.message.id": event.identity.hex(),
        "messaging.consumer.group.name": job.handler,
        "rewards.attempt": job.attempts,
    }
    return start_span(f"process {event.name}", attributes, kind="consumer", root=True, link=links.of_event(event))


def wait_span() -> Span:
    """Return the span of a wait."""
    return start_span("rewards.wait", {})


def note_operation(span: Span, ref: OperationRef) -> None:
    """Say which operation a wait is for."""
    span.note({"rewards.scope": ref.scope, "rewards.operation.kind": ref.kind, "rewards.operation.uid": ref.uid})


def note_settled(span: Span, ref: OperationRef, via: Via, links: DeliveryLinks) -> None:
    """Say how the outcome of an operation was learned, and link to its delivery."""
    span.note({"rewards.settled.via": via})
    if via == "webhook":
        span.link(links.of_operation(ref))


def _about(event: Event) -> Attributes:
    return {
        "rewards.scope": event.scope,
        "rewards.event.name": event.name,
        "rewards.operation.kind": None if event.ref is None else event.ref.kind,
        "rewards.operation.uid": None if event.ref is None else event.ref.uid,
    }
