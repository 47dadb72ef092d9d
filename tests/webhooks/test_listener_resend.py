"""`webhook-listener events resend`: kept events, sent to another place."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from attrs import evolve

from original_async import OriginalWebhooks
from tests.texts import said
from tests.webhooks.command_kit import Target, destination, fill, lines, records, run, screen
from tests.webhooks.listener_process import KEYS, SOURCE, delivery, signed
from tests.webhooks.store_contract import event
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.store.sqlite import SQLiteStore

USER = "754566475542"
BODY = delivery("1", note="ü") + b"\n"
OTHER_KEYS = {"other": "another_secret_of_some_length"}


async def three_events(store: SQLiteStore) -> None:
    """Keep an event as it was delivered, one without a signature, and one whose body was erased."""
    hints = {"x-webhook-correlation-id": "c-1", "x-webhook-attempt": "3"}
    await store.accept(SOURCE.parse(delivery("2", to_user_uid="987654321098"), None))
    await store.accept(event("3", said="111111111111"))
    await store.forget_user("111111111111")
    await store.accept(SOURCE.parse(BODY, {**signed(BODY), **hints}))


@pytest.fixture
def target(folder: Path) -> Iterator[Target]:
    fill(folder, three_events)
    with destination() as target:
        yield target


def test_an_event_is_sent_as_it_came_with_the_signature_it_came_with(target: Target) -> None:
    assert lines(run("events", "resend", "3", "--to", target.url)) == [{"id": 3, "sent": "reward.allocated", "status": 200}]
    ((headers, body),) = target.got
    assert body == BODY
    assert headers["x-webhook-signature"] == SOURCE.sign(BODY)
    assert (headers["x-webhook-correlation-id"], headers["x-webhook-attempt"]) == ("c-1", "3")


@pytest.mark.parametrize("way", ["file", "environment"])
def test_with_keys_an_event_is_signed_again(target: Target, folder: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    pairs = ",".join(f"{key}:{secret}" for key, secret in OTHER_KEYS.items())
    options = []
    if way == "file":
        (folder / "keys").write_text(pairs)
        (folder / "keys").chmod(0o600)
        options = ["--keys-file", "keys"]
        monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    else:
        monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", pairs)
    assert screen("events", "resend", "3", "1", "3", "--to", target.url, *options) == [
        "event 3, reward.allocated: 200",
        "event 1, reward.allocated: 200",
    ]
    for headers, body in target.got:
        OriginalWebhooks(OTHER_KEYS).verify(headers, body)
    assert [body for _, body in target.got] == [BODY, delivery("2", to_user_uid="987654321098")]


def test_where_one_event_cannot_be_sent_none_is(target: Target) -> None:
    errors = []
    for event_id in ("2", "99", "1"):
        result = run("events", "resend", "3", event_id, "--to", target.url)
        assert (result.exit_code, result.stdout) == (5, "")
        errors.append(result.stderr)
    said("events resend: events that cannot be sent", "".join(errors))
    assert target.got == []


def test_what_no_vendor_sent_is_not_sent_in_its_name(target: Target, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    fill(folder, lambda store: store.accept(evolve(event("4"), name=CONFLICT_EVENT)))
    result = run("events", "resend", "4", "--to", target.url)
    assert (result.exit_code, target.got) == (5, [])
    said("events resend: a conflict", result.stderr)


@pytest.mark.parametrize(("status", "code"), [(401, 6), (302, 6), (503, 7)])
def test_the_worst_answer_is_the_exit_code(target: Target, status: int, code: int) -> None:
    target.status = status
    result = run("events", "resend", "3", "--to", target.url)
    assert (result.exit_code, records(result)[0]["status"]) == (code, status)
    assert f"HTTP {status}" in result.stderr
    assert len(target.got) == 1


def test_nobody_there_is_exit_code_7(target: Target) -> None:
    result = run("events", "resend", "3", "--to", "http://127.0.0.1:9/in")
    assert (result.exit_code, result.stdout) == (7, "")
    assert "http://127.0.0.1:9/in" in result.stderr


def test_bodies_go_to_another_machine_over_plain_http_only_if_that_is_allowed(target: Target) -> None:
    result = run("events", "resend", "3", "--to", "http://staging.invalid/in")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--insecure" in result.stderr
    result = run("events", "resend", "3", "--to", "http://staging.invalid/in", "--insecure")
    assert (result.exit_code, result.stdout) == (7, "")


def test_a_private_authority_is_trusted_where_it_is_given(folder: Path) -> None:
    fill(folder, three_events)
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    with destination(context) as target:
        assert run("events", "resend", "3", "--to", target.url).exit_code == 7
        assert target.got == []
        assert run("events", "resend", "3", "--to", target.url, "--cacert", "ca.pem").exit_code == 0
        assert [body for _, body in target.got] == [BODY]
