"""The texts of this package's own errors; those of rewards_core are read in its tests."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

import pytest
from attrs import evolve

from original_async import Allocation, Claim, OriginalClient, OriginalWebhooks
from original_async.settings import app_uid_from
from original_async.signature import Keyring
from rewards_core.errors import OperationMismatch, SignatureError
from rewards_core.operations import OperationRef, OperationStatus
from tests.original_async.conftest import MakeClient
from tests.texts import refusals, said

ALLOCATION = Allocation(uid="1", status=OperationStatus.PENDING, reward_uid="2", to_user_uid="3", amount=Decimal(1), nonce="n")
CLAIM = Claim(uid="1", status=OperationStatus.PENDING, reward_uid="2", from_user_uid="3", to_address="0xAbC")
SECRET = "a-secret-of-more-than-thirty-two-bytes"
KEY = "4o3vfxtcmo7b"


async def test_the_texts_of_arguments_that_are_refused(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client()
    for name in ("ORIGINAL_API_KEY", "ORIGINAL_API_SECRET", "ORIGINAL_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORIGINAL_ENVIRONMENT", "staging")
    attempts: dict[str, Callable[[], object]] = {
        "a long key": lambda: make_client("k" * 256),
        "an SSH key": lambda: make_client("key", "ssh-ed25519-of-more-than-thirty-two-bytes"),
        "no credentials": OriginalClient.from_env,
        "an environment": lambda: OriginalClient.from_env(api_key="key", api_secret=SECRET),
        "an app uid": lambda: app_uid_from({"ORIGINAL_APP_UID": "two words"}),
        "no operation": lambda: client.ref_of(cast("Any", 7)),
        "another scope": lambda: client.ref_of(OperationRef("second", "allocation", "1")),
        "another kind": lambda: client.ref_of(OperationRef("default", "coin", "1")),
        "no final": lambda: client.conclude(None, cast("Any", 7)),
        "not terminal": lambda: client.conclude(None, ALLOCATION),
        "not asked for": lambda: client.conclude(cast("Any", 7), evolve(ALLOCATION, status=OperationStatus.DONE)),
        "a pickle": lambda: pickle.dumps(client),
        "no keys": lambda: OriginalWebhooks({}),
        "a key id": lambda: OriginalWebhooks({"two words": SECRET}),
    }
    said("arguments", refusals(attempts))


async def test_the_texts_of_operations_that_settled_as_another(make_client: MakeClient) -> None:
    lines = []
    for operation in (ALLOCATION, CLAIM):
        with pytest.raises(OperationMismatch) as caught:
            make_client().conclude(operation, evolve(operation, status=OperationStatus.DONE, amount=Decimal(2), reward_uid="9"))
        lines.append(str(caught.value))
    said("conclude: another operation", "\n".join(lines))


def test_the_texts_of_signatures_that_are_refused() -> None:
    deliveries: dict[str, Any] = {
        "missing": ({}, b""),
        "malformed": ({"x-webhook-signature": "nonsense"}, b""),
        "unknown key": ({"x-webhook-signature": f"other,{'0' * 64}"}, b""),
        "mismatch": ({"x-webhook-signature": f"{KEY},{'0' * 64}"}, b""),
        "a body as text": ({}, "{}"),
    }
    lines = []
    for name, (headers, body) in deliveries.items():
        with pytest.raises(SignatureError) as caught:
            Keyring({KEY: SECRET}).verify(headers, body)
        lines.append(f"{name}: {caught.value}")
    said("signatures", "\n".join(lines))
