"""The identity of an event: equal for all deliveries of it, different in doubt."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.original_async.event_kit import ALLOCATION, TIME, body, source


def test_one_event_has_one_identity_however_it_is_written() -> None:
    content = json.loads(body(allocation=ALLOCATION))
    again = json.dumps({**content, "sent_at": "2024-08-02T00:00:00Z"}, separators=(",", ":")).encode()
    shuffled = json.dumps(dict(reversed(content.items())), indent=2).encode()
    identities = {
        source.parse(raw, {"x-webhook-attempt": "2"}).identity for raw in (body(allocation=ALLOCATION), again, shuffled)
    }
    assert len(identities) == 1


def with_members(content: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({**content, **members}).encode()


@pytest.mark.parametrize("event_time", [{}, {"event_time": None}, {"event_time": ""}])
def test_without_its_own_time_an_event_is_told_apart_by_when_it_was_sent(event_time: dict[str, Any]) -> None:
    content = {"event": "reward.allocated", "data": {"allocation": ALLOCATION}, **event_time}
    first, second = (source.parse(with_members(content, sent_at=f"2024-0{month}-01T00:00:00Z")) for month in (7, 8))
    assert first.identity != second.identity


@pytest.mark.parametrize(
    "name",
    [
        "attempt",
        "webhook_attempt",
        "x-webhook-attempt",
        "X-Webhook-Attempt",
        "webhookAttempt",
        "correlation_id",
        "correlationId",
        "webhook_correlation_id",
        "x-webhook-correlation-id",
        "app_uid",
        "appUid",
        "x-app-uid",
        "webhook-app-uid",
    ],
)
def test_what_names_the_delivery_takes_no_part_in_the_identity(name: str) -> None:
    content = json.loads(body(allocation=ALLOCATION))
    for place in ("metadata", "headers"):
        deliveries = [with_members(content, **{place: {name: value, "kept": 1}}) for value in ("1", "2", 3, None)]
        assert len({source.parse(raw).identity for raw in deliveries}) == 1
    assert source.parse(with_members(content, **{name: "1"})).identity == source.parse(with_members(content)).identity


def test_a_delivery_that_is_told_apart_in_three_places_is_one_event() -> None:
    content = json.loads(body(allocation=ALLOCATION))
    deliveries = [
        with_members(content, sent_at=value, attempt=value, metadata={"correlationId": value}, headers={"X-App-Uid": value})
        for value in ("1", "2", "3")
    ]
    assert len({source.parse(raw).identity for raw in deliveries}) == 1


@pytest.mark.parametrize(
    "place",
    [
        lambda value: {"data": {"attempt": value}},
        lambda value: {"data": {"metadata": {"attempt": value}, "headers": {"x-webhook-attempt": value}}},
        lambda value: {"data": {"app_uid": value, "correlation_id": value}},
        lambda value: {"metadata": {"inner": {"attempt": value}}},
        lambda value: {"headers": [{"attempt": value}]},
        lambda value: {"other": {"attempt": value}},
        lambda value: {"attempts": value},
        lambda value: {"retry_attempt": value},
        lambda value: {"metadata": {"uid": value}},
        lambda value: {"metadata": {"sent_at": value}},
        lambda value: {"metadata": value},
    ],
)
def test_in_doubt_there_are_two_events(place: Callable[[str], dict[str, Any]]) -> None:
    content = {**json.loads(body(allocation=ALLOCATION)), "app_uid": "UB2DG8MW5KBQ"}
    first, second = (source.parse(with_members(content, **place(value))) for value in ("1", "2"))
    assert first.identity != second.identity


@pytest.mark.parametrize(
    ("raw", "identity"),
    [
        (
            (
                b'{"data": {"app": {"uid": "UB2DG8MW5KBQ"}, "allocation": {"uid": "213134081289", "amount": "1.23"}}, '
                b'"event": "reward.allocated", "event_time": "2024-08-01T11:24:36.531141+00:00", '
                b'"sent_at": "2024-08-01T11:24:37.531141+00:00"}'
            ),
            "a83ccac9a16698ecb15b1ca4baa62fcc",
        ),
        (
            (
                b'{"event": "reward.claimed", "event_time": "2024-08-01T11:24:36+00:00", "data": {"claim": {"uid": "1", '
                b'"amount": 1.50, "attempt": 3, "sent_at": "x"}, "metadata": {"attempt": 1}, "app_uid": "A"}}'
            ),
            "42a35788b16f1245b99a732bfb0a5793",  # the first release serialized fractions differently
        ),
        (b'{"event": "collection.deployed", "data": {"collection": {"uid": "1"}}}', "7746e8742c2d214e4649f3f1a1baf39b"),
        (
            '{"event": "reward.allocated", "event_time": "t", "sent_at": "s", "metadata": {"région": "EU", "attempts": 2}, '
            '"headers": ["attempt"], "retry": {"attempt": 1}}'.encode(),
            "8f5cf49f8a4d9639f116544b32eec488",
        ),
        (b"[1]", "080a9ed428559ef602668b4c00f114f1"),
        (b"nonsense", "999aaa8645bb72ff599e143b1e3d2a94"),
    ],
)
def test_an_identity_matches_what_earlier_versions_stored(raw: bytes, identity: str) -> None:
    assert source.parse(raw).identity.hex() == identity


def test_events_that_differ_anywhere_else_have_different_identities() -> None:
    identities = {
        source.parse(raw).identity
        for raw in (
            body(allocation=ALLOCATION),
            body("reward.claimed", allocation=ALLOCATION),
            body(allocation={**ALLOCATION, "uid": "213134081290"}),
            body(allocation={**ALLOCATION, "sent_at": TIME}),
            body(allocation=ALLOCATION).replace(b'"1.23"', b"1.23"),
            body(allocation=ALLOCATION).replace(b'"1.23"', b"1.230000000000000000001"),
            body(allocation=ALLOCATION).replace(b'"1.23"', b"1.230000000000000000002"),
            body(allocation=ALLOCATION).replace(b'"event_time": "2024', b'"event_time": "2025'),
        )
    }
    assert len(identities) == 8
