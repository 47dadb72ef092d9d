"""A fake vendor: a source of signed events and a reader of operations with scripted answers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from rewards_core.errors import (
    ConnectFailed,
    NotFound,
    OperationFailed,
    OperationMismatch,
    OutcomeUnknown,
    ServerFailed,
    SignatureError,
    UnexpectedResponse,
    VendorError,
)
from rewards_core.operations import Event, KeyedRequest, Operation, OperationRef, OperationStatus

SIGNATURE = "x-fake-signature"


@frozen(kw_only=True)
class Thing:
    """An operation of the fake vendor."""

    ref: OperationRef
    status: OperationStatus
    amount: str | None = None
    raw: Mapping[str, Any] = field(factory=dict, repr=False)
    key: str | None = None
    recovered: bool = False


@frozen(kw_only=True)
class ThingRequest:
    """The request of a call to the fake vendor."""

    key: str
    owner: str = "ann"
    amount: str = "1.5"
    kind: str = "thing"
    scope: str = "default"

    def is_met_by(self, operation: Operation) -> bool:
        return isinstance(operation, Thing) and (operation.key, operation.amount) == (self.key, self.amount)


def a_ref(uid: str = "1", kind: str = "thing", scope: str = "default") -> OperationRef:
    return OperationRef(scope, kind, uid)


def a_thing(
    uid: str = "1",
    status: str = "pending",
    amount: str | None = "1.5",
    key: str | None = None,
    recovered: bool = False,
    **more: Any,
) -> Thing:
    words = words_of(uid, status, amount, key)
    return Thing(ref=a_ref(uid, **more), status=OperationStatus(status), amount=amount, raw=words, key=key, recovered=recovered)


def words_of(uid: str, status: str, amount: str | None = "1.5", key: str | None = None) -> dict[str, Any]:
    words = {"uid": uid, "status": status, "amount": amount}
    return words if key is None else {**words, "key": key}


def lost(key: str = "k", **more: Any) -> OutcomeUnknown:
    """Return the error of a call whose reply was lost."""
    return OutcomeUnknown("The connection broke; look before you repeat it.", request=ThingRequest(key=key, **more))


class FakeSource:
    """Signs with one key. Its events are `{"event", "kind", "uid", "resource", "sent_at"}`, all but the name optional."""

    def __init__(self, scope: str = "default", key: bytes = b"key", app: str | None = None) -> None:
        self._scope = scope
        self._key = key
        self._app = app

    @property
    def scope(self) -> str:
        return self._scope

    def sign(self, body: bytes) -> dict[str, str]:
        return {SIGNATURE: hmac.new(self._key, body, hashlib.sha256).hexdigest()}

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        given = headers.get(SIGNATURE)
        if given is None:
            raise SignatureError("expected a signature, got none", reason="missing")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.sign(body)[SIGNATURE].encode()):
            raise SignatureError("expected another signature", reason="mismatch")
        return "key"

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        headers = headers or {}
        hints: dict[str, Any] = {"correlation_id": headers.get("x-correlation-id"), "attempt": headers.get("x-attempt")}
        try:
            words = json.loads(body)
            name = words["event"]
        except (ValueError, TypeError, KeyError, RecursionError):
            identity = hashlib.sha256(body).digest()[:16]
            return Event(scope=self._scope, name="", identity=identity, body=body, problem="unreadable", **hints)
        same = {key: value for key, value in words.items() if key != "sent_at"}
        identity = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).digest()[:16]
        resource = words.get("resource")
        uid = words.get("uid") or (resource or {}).get("uid")
        complete = resource and resource.get("status") in {"done", "failed"} and "amount" in resource
        return Event(
            scope=self._scope,
            name=name,
            identity=identity,
            body=body,
            ref=OperationRef(self._scope, words.get("kind", "thing"), uid) if uid else None,
            also=tuple(OperationRef(self._scope, words.get("kind", "thing"), other) for other in words.get("also", ())),
            key=(resource or words).get("key"),
            resource=resource if complete else None,
            problem=f"names the app {words['app']}" if words.get("app", self._app) != self._app else None,
            **hints,
        )


def body_of(name: str = "thing.done", **words: Any) -> bytes:
    return json.dumps({"event": name, **words}).encode()


Answer = str | Exception | Operation | Callable[[], Any]


async def check_turn(may_send: Callable[[], Awaitable[bool]] | None) -> None:
    """Check the turn, as a client does just before it sends a request."""
    if may_send is not None and not await may_send():
        raise ConnectFailed("it was too late for its turn")


class FakeVendor:
    """Answers reads as told, and remembers when it was asked what.

    `will(uid, ...)` gives the answers one after the other, the last for ever: a status, an exception or an operation. One
    that it was told nothing about is unknown: `NotFound`. `holds(...)` gives what look-ups list from then on, and
    `will_list(...)` what the next ones meet before that.
    """

    def __init__(self, scope: str = "default", latency: float = 0.0) -> None:
        self._scope = scope
        self.latency = latency
        self.answers: dict[tuple[str, str], list[Answer]] = {}
        self.reads: list[tuple[float, OperationRef]] = []
        self.held: list[Thing] = []
        self.listing: list[Exception] = []
        self.pages = 1
        self.look_ups: list[tuple[float, tuple[str, ...]]] = []
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def scope(self) -> str:
        return self._scope

    @property
    def read_times(self) -> list[float]:
        return [at for at, _ in self.reads]

    def will(self, uid: str, *answers: Answer, kind: str = "thing") -> None:
        self.answers[kind, uid] = list(answers)

    @property
    def look_up_times(self) -> list[float]:
        return [at for at, _ in self.look_ups]

    def holds(self, *things: Thing) -> None:
        self.held = list(things)

    def will_list(self, *errors: Exception) -> None:
        self.listing = list(errors)

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        if isinstance(operation, str):
            return OperationRef(self._scope, "thing", operation)
        ref = operation if isinstance(operation, OperationRef) else operation.ref
        if ref.scope != self._scope:
            raise ValueError(f"the scope is {ref.scope}, not {self._scope}")
        return ref

    async def read_operation(self, ref: OperationRef, *, may_send: Callable[[], Awaitable[bool]] | None = None) -> Operation:
        await check_turn(may_send)
        self.reads.append((asyncio.get_running_loop().time(), ref))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            answers = self.answers.get((ref.kind, ref.uid), [NotFound("no such thing", status=404)])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, str):
                return self.parse_operation(ref, words_of(ref.uid, answer))
            return answer() if callable(answer) else answer
        finally:
            self.in_flight -= 1

    async def find_operations(
        self,
        requests: Sequence[KeyedRequest],
        *,
        before_page: Callable[[], Awaitable[object]] | None = None,
        may_send: Callable[[], Awaitable[bool]] | None = None,
    ) -> Sequence[Operation]:
        assert before_page is not None
        await check_turn(may_send)
        assert len({(request.kind, request.owner) for request in requests}) == 1
        keys = [request.key for request in requests]
        assert len(set(keys)) == len(keys)
        self.look_ups.append((asyncio.get_running_loop().time(), tuple(keys)))
        held = list(self.held)
        if self.latency:
            await asyncio.sleep(self.latency)
        for _ in range(1, self.pages):
            await before_page()
            await check_turn(may_send)
            self.look_ups.append((asyncio.get_running_loop().time(), tuple(keys)))
        if self.listing:
            raise self.listing.pop(0)
        return [thing for thing in held if thing.key in keys and thing.ref.kind == requests[0].kind]

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> Operation:
        if resource.get("uid") != ref.uid or "amount" not in resource:
            raise UnexpectedResponse("data is incomplete")
        status = OperationStatus(resource["status"])
        return Thing(ref=ref, status=status, amount=resource["amount"], raw=resource, key=resource.get("key"))

    def conclude(self, asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
        if final.status is OperationStatus.FAILED:
            raise OperationFailed(f"{final.ref} failed", operation=final)
        if isinstance(asked, Thing | ThingRequest) and isinstance(final, Thing) and asked.amount != final.amount:
            raise OperationMismatch(f"{final.ref} is another", operation=final, asked=asked, differences={})
        return evolve(final, recovered=isinstance(asked, ThingRequest) or getattr(asked, "recovered", False))  # type: ignore[misc]


def trouble(status: int = 503) -> VendorError:
    return ServerFailed("the vendor is in trouble", status=status)


def most_in_a_second(times: Sequence[float]) -> int:
    """Return the most that lie within any second, its ends included."""
    ordered = sorted(times)
    return max(sum(start <= time <= start + 1.0 for time in ordered[place : place + 200]) for place, start in enumerate(ordered))
