"""Every argument of every public constructor is checked, and the refusal begins with the argument's name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import enkash_async
import original_async
import rewards_core
import webhooks
from tests.webhooks.fakes import FakeSource, FakeVendor
from tests.webhooks.queue_kit import FakeQueue
from webhooks.ingress.queue import QueueIngress
from webhooks.ingress.sqs import SqsIngress

CREDENTIALS = ("id", "secret", "user", "password")
USUAL: dict[type[Any], dict[str, Any]] = {
    original_async.OriginalClient: {"api_key": "key", "api_secret": "s" * 32},
    original_async.OriginalWebhooks: {"keys": {"id": "secret"}},
    original_async.Keyring: {"keys": {"id": "secret"}},
    original_async.AllocationRequest: {"reward_uid": "1", "to_user_uid": "2", "amount": Decimal(1), "nonce": "n"},
    original_async.ClaimRequest: {"reward_uid": "1", "from_user_uid": "2", "to_address": "0x1"},
    enkash_async.EnkashClient: {
        "coins_base_url": "https://coins.example",
        "auth_base_url": "https://auth.example",
        "credentials": enkash_async.PasswordCredentials(*CREDENTIALS),
    },
    enkash_async.PasswordCredentials: dict(zip(("client_id", "client_secret", "username", "password"), CREDENTIALS, strict=True)),
    enkash_async.StaticToken: {"access_token": "token"},
    enkash_async.FileBreakerStore: {"path": "breaker.json"},
    enkash_async.CoinAllocationRequest: {"event": "E", "user_id": "U", "request_id": "R", "company_id": "C"},
    rewards_core.Limits: {"calls_per_second": 1},
    rewards_core.RetryPolicy: {},
    rewards_core.Timeouts: {},
    webhooks.Completions: {"client": FakeVendor(), "store": webhooks.MemoryStore()},
    webhooks.HandlerPolicy: {},
    webhooks.MemoryStore: {},
    webhooks.PollPolicy: {},
    webhooks.PostgresStore: {"dsn": "postgresql://db/inbox"},
    webhooks.Receiver: {"sources": FakeSource(), "store": webhooks.MemoryStore()},
    webhooks.RestartPolicy: {},
    webhooks.SQLiteStore: {"path": "inbox.db"},
    QueueIngress: {"queue": FakeQueue(), "receiver": webhooks.Receiver(FakeSource(), webhooks.MemoryStore())},
    SqsIngress: {"url": "sqs://rewards", "receiver": webhooks.Receiver(FakeSource(), webhooks.MemoryStore())},
}
CALLED = {"keys": "webhook keys"}
"""What a message calls an argument that has another name than its parameter."""


def arguments() -> Iterator[Any]:
    for kind in USUAL:
        yield from (pytest.param(kind, name, id=f"{kind.__name__}-{name}") for name in inspect.signature(kind).parameters)


@pytest.mark.parametrize(("kind", "name"), list(arguments()))
def test_what_no_argument_can_be_is_refused_by_name(
    kind: type[Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=rf"^{CALLED.get(name, name)}: give "):
        kind(**USUAL[kind] | {name: object()})
    assert not list(tmp_path.iterdir())
