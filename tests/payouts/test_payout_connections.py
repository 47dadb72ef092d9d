"""Where a run turns to: the vendor's address, and the store of a listener that it only reads."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from payouts.cli.connections import Listening, completions_of, original_client, target_of
from tests.payouts.command_kit import REWARD


def test_the_target_is_where_the_money_goes_out(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert target_of("original") == "https://api.getoriginal.com/v1"
    monkeypatch.setenv("ORIGINAL_ENVIRONMENT", "development")
    assert target_of("original") == "https://api-dev.getoriginal.com/v1"
    monkeypatch.setenv("ORIGINAL_BASE_URL", "https://other.example/v1")
    monkeypatch.setenv("ENKASH_COINS_BASE_URL", "https://coins.example")
    assert (target_of("original"), target_of("enkash")) == ("https://other.example/v1", "https://coins.example")


async def test_a_listeners_store_is_read_and_never_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from original_async import OriginalWebhooks
    from webhooks import Receiver
    from webhooks.store.sqlite import SQLiteStore

    monkeypatch.setenv("ORIGINAL_API_KEY", "k")
    monkeypatch.setenv("ORIGINAL_API_SECRET", "s" * 32)
    path = folder / "inbox.db"
    source = OriginalWebhooks({"k1": "secret"})
    body = json.dumps(
        {
            "event": "reward.allocated",
            "data": {
                "allocation": {
                    "uid": "7",
                    "status": "done",
                    "reward_uid": REWARD,
                    "to_user_uid": "32",
                    "amount": "1",
                    "nonce": "n",
                    "created_at": "2023-08-10T14:07:14.494142Z",
                }
            },
        }
    ).encode()
    writing = await asyncio.to_thread(SQLiteStore, path)
    async with Receiver(source, writing) as receiver:
        await receiver.receive({"x-webhook-signature": source.sign(body)}, body)
        client = original_client()
        async with client, completions_of(client, Listening(store=str(path))) as completions:
            assert (await completions.wait("7", timeout=10)).status == "done"
    await writing.aclose()
