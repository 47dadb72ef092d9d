"""A vendor without a name: a source of signed events and a reader of operations, both told what to say."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from vendor_http.errors import (
    NotFound,
    OperationFailed,
    OperationMismatch,
    ServerFailed,
    SignatureError,
    UnexpectedResponse,
    VendorError,
)
from vendor_http.operations import Event, Operation, OperationRef, OperationStatus

SIGNATURE = "x-fake-signature"


@frozen(kw_only=True)
class Thing:
    """An operation of the fake vendor."""

    ref: OperationRef
    status: OperationStatus
    amount: str | None = None
    raw: Mapping[str, Any] = field(factory=dict, repr=False)


def a_ref(uid: str = "1", kind: str = "thing", scope: str = "default") -> OperationRef:
    return OperationRef(scope, kind, uid)


def a_thing(uid: str = "1", status: str = "pending", amount: str | None = "1.5", **more: Any) -> Thing:
    ref = a_ref(uid, **more)
    return Thing(ref=ref, status=OperationStatus(status), amount=amount, raw=words_of(uid, status, amount))


def words_of(uid: str, status: str, amount: str | None = "1.5") -> dict[str, Any]:
    return {"uid": uid, "status": status, "amount": amount}


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
            resource=resource if complete else None,
            problem=f"names the app {words['app']}" if words.get("app", self._app) != self._app else None,
            **hints,
        )


def body_of(name: str = "thing.done", **words: Any) -> bytes:
    return json.dumps({"event": name, **words}).encode()


Answer = str | Exception | Operation | Callable[[], Any]


class FakeVendor:
    """Answers reads as told, and remembers when it was asked what.

    `will(uid, ...)` gives the answers one after the other, the last for ever: a status, an exception or an operation. One
    that it was told nothing about is unknown: `NotFound`.
    """

    def __init__(self, scope: str = "default", latency: float = 0.0) -> None:
        self._scope = scope
        self.latency = latency
        self.answers: dict[tuple[str, str], list[Answer]] = {}
        self.reads: list[tuple[float, OperationRef]] = []
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

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        if isinstance(operation, str):
            return OperationRef(self._scope, "thing", operation)
        ref = operation if isinstance(operation, OperationRef) else operation.ref
        if ref.scope != self._scope:
            raise ValueError(f"expected the scope {self._scope}, got {ref.scope}")
        return ref

    async def read_operation(self, ref: OperationRef) -> Operation:
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

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> Operation:
        if resource.get("uid") != ref.uid or "amount" not in resource:
            raise UnexpectedResponse("expected the whole thing, got a part")
        return Thing(ref=ref, status=OperationStatus(resource["status"]), amount=resource["amount"], raw=resource)

    def conclude(self, asked: Operation | None, final: Operation) -> Operation:
        if final.status is OperationStatus.FAILED:
            raise OperationFailed(f"{final.ref} failed", operation=final)
        if asked is not None and asked.amount != final.amount:  # type: ignore[attr-defined]
            raise OperationMismatch(f"{final.ref} is another", operation=final, asked=asked, differences={})
        return final


def trouble(status: int = 503) -> VendorError:
    return ServerFailed("the vendor is in trouble", status=status)
