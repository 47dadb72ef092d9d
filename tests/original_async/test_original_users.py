"""Users: both documented shapes, look-ups without a match, and users who exist already."""

from __future__ import annotations

import asyncio
import re
import traceback
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aioresponses import aioresponses

from original_async import OriginalClient, User, UserRequest, Wallet
from rewards_core.errors import Conflict, NotFound, OutcomeUnknown, UnexpectedResponse, ValidationFailed
from tests.original_async.conftest import BASE, MakeClient
from tests.texts import said
from vendor_sandboxes.original import OriginalSandbox

WALLET = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
EXPLORER = f"https://amoy.polygonscan.com/address/{WALLET}"
USER: dict[str, Any] = {
    "uid": "816379099131",
    "created_at": "2023-08-10T14:07:14.494142Z",
    "email": "user_email@email.com",
    "user_external_id": "user_external_id_1",
    "wallets": [{"address": WALLET, "explorer_url": EXPLORER, "network": "Polygon", "chain_id": 80002}],
    "client_id": "user_external_id_1",
}
OLDER: dict[str, Any] = {
    "uid": "754566475542",
    "user_external_id": "user_external_id_1",
    "created_at": "2024-02-26T13:12:31.798296Z",
    "email": "user_email@email.com",
    "wallet_address": "0xa22f2dfe189ed3d16bb5bda5e5763b2919058e40",
}


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


async def test_a_user_with_wallets(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/user/816379099131", payload=ok(USER))
    user = await client.get_user("816379099131")
    assert user == User(
        uid="816379099131",
        email="user_email@email.com",
        user_external_id="user_external_id_1",
        created_at=datetime(2023, 8, 10, 14, 7, 14, 494142, tzinfo=UTC),
        wallets=(Wallet(address=WALLET, explorer_url=EXPLORER, network="Polygon", chain_id=80002),),
    )
    assert user.addresses == (WALLET,)
    assert user.raw["client_id"] == "user_external_id_1"


async def test_a_user_of_the_older_shape(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/user/754566475542", payload=ok(OLDER))
    user = await client.get_user("754566475542")
    assert (user.wallets, user.wallet_address) == ((), OLDER["wallet_address"])
    assert user.addresses == (OLDER["wallet_address"],)


@pytest.mark.parametrize(
    "changes", [{"wallets": []}, {"wallets": None}, {"wallets": [{"address": None, "network": "Amoy"}]}, {"email": None}]
)
async def test_a_user_without_wallet_or_address(client: OriginalClient, wire: aioresponses, changes: dict[str, Any]) -> None:
    wire.get(f"{BASE}/user/816379099131", payload=ok({**USER, "wallets": [], **changes}))
    assert (await client.get_user("816379099131")).addresses == ()


async def test_no_match_is_none(client: OriginalClient, wire: aioresponses) -> None:
    none = {"success": False, "data": None}
    wire.get(f"{BASE}/user?email=a%2Bb%40example.com", payload=none)
    wire.get(f"{BASE}/user?user_external_id=id%201", payload=none)
    assert await client.get_user_by_email("a+b@example.com") is None
    assert await client.get_user_by_user_external_id("id 1") is None


@pytest.mark.parametrize("reply", [{"success": False}, [], {"success": True, "data": []}, {"success": True, "data": {"uid": 7}}])
async def test_an_answer_that_is_neither_a_user_nor_none_is_unexpected(
    client: OriginalClient, wire: aioresponses, reply: Any
) -> None:
    wire.get(f"{BASE}/user?email=a%40example.com", payload=reply)
    with pytest.raises(UnexpectedResponse):
        await client.get_user_by_email("a@example.com")


async def test_an_unknown_uid_is_not_found(original: OriginalClient) -> None:
    with pytest.raises(NotFound):
        await original.get_user("000000000000")


async def test_a_user_of_another_uid_is_unexpected(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/user/1", payload=ok(USER))
    with pytest.raises(UnexpectedResponse, match=r"data\.uid"):
        await client.get_user("1")


@pytest.mark.parametrize(
    "ids",
    [{"email": "a+b@example.com"}, {"user_external_id": "id/1 ü"}, {"email": "a+b@example.com", "user_external_id": "id 1"}],
    ids=["e-mail", "external id", "both"],
)
async def test_a_user_who_exists_is_returned(original: OriginalClient, ids: dict[str, Any]) -> None:
    user = await original.create_user(**ids)
    assert not user.recovered
    again = await original.create_user(**ids)
    assert (again.uid, again.recovered) == (user.uid, True)
    found = [await original.get_user_by_email(ids["email"])] if "email" in ids else []
    if "user_external_id" in ids:
        found.append(await original.get_user_by_user_external_id(ids["user_external_id"]))
    assert [None if each is None else each.uid for each in found] == [user.uid] * len(found)


async def test_case_of_an_address_does_not_make_another_user(client: OriginalClient, wire: aioresponses) -> None:
    wire.post(f"{BASE}/user", status=400, payload={"detail": "User already exists."})
    wire.get(f"{BASE}/user?email=User_Email%40email.com", payload=ok(USER))
    assert (await client.create_user(email="User_Email@email.com")).uid == USER["uid"]


async def test_an_address_of_another_user_is_a_conflict(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    first = await original.create_user(email="a@example.com", user_external_id="1")
    with pytest.raises(Conflict) as caught:
        await original.create_user(email="a@example.com", user_external_id="2")
    assert caught.value.existing.uid == first.uid
    said("create_user: the address belongs to another user", str(caught.value).replace(first.uid, "UID"))
    assert sandbox.books()["users"] == [first.uid]


async def test_an_address_that_the_vendor_rejects(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    with pytest.raises(ValidationFailed) as caught:
        await original.create_user(email="no address")
    assert [each.field for each in caught.value.field_errors] == ["email"]
    assert sandbox.books()["users"] == []


async def test_what_is_sent(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    await original.create_user()
    await original.create_user(email="a@example.com")
    await original.create_user(user_external_id="1")
    assert [each.json() for each in sandbox.requests] == [{}, {"email": "a@example.com"}, {"user_external_id": "1"}]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("email", "", ValueError),
        ("email", " a@example.com", ValueError),
        ("email", 7, TypeError),
        ("user_external_id", "a\nb", ValueError),
        ("user_external_id", b"1", TypeError),
    ],
)
async def test_arguments_are_checked_before_anything_is_sent(
    original: OriginalClient, sandbox: OriginalSandbox, name: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        await original.create_user(**{name: value})
    with pytest.raises(error, match=name):
        await getattr(original, f"get_user_by_{name}")(value)
    assert not sandbox.requests


@pytest.mark.parametrize("told", ["ada@example.com", None])
async def test_another_user_than_was_looked_for_is_unexpected(
    client: OriginalClient, wire: aioresponses, told: str | None
) -> None:
    wire.get(f"{BASE}/user?email=other%40example.com", payload=ok({**USER, "email": told}))
    with pytest.raises(UnexpectedResponse, match=r"data\.email"):
        await client.get_user_by_email("other@example.com")


@pytest.mark.parametrize(
    ("email", "label"),
    [
        ("ada.lovelace@example.com", "a…@example.com / E-1"),
        ("@", "…@ / E-1"),
        ("lovelace", "… / E-1"),
        ("ada@x@y.z", "a…@y.z / E-1"),
    ],
)
async def test_no_message_log_record_or_repr_shows_an_address(
    make_client: MakeClient, wire: aioresponses, caplog: pytest.LogCaptureFixture, email: str, label: str
) -> None:
    told: list[Any] = []
    observer = SimpleNamespace(on_start=told.append, on_retry=told.append, on_end=told.append)
    client = make_client(observers=[observer])
    wire.post(f"{BASE}/user", status=503, repeat=True)
    wire.get(re.compile("email"), status=500, repeat=True)
    with pytest.raises(OutcomeUnknown, match=re.escape(repr(label))) as unknown:
        await client.create_user(email=email, user_external_id="E-1")
    assert (unknown.value.idempotency_key, unknown.value.request.email) == (label, email)  # type: ignore[attr-defined]
    held = User(uid="1", email=email, user_external_id="E-2")
    request = UserRequest(email=email)
    shown = [*told, unknown.value, unknown.value.request, held, request, caplog.text, *traceback.format_exception(unknown.value)]
    assert email not in "".join(map(str, shown)).replace(label, "")


async def test_a_cancelled_creation_is_logged_without_the_address(
    original: OriginalClient, sandbox: OriginalSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.script("slow_after_commit")
    creating = asyncio.create_task(original.create_user(email="ada@example.com"))
    await sandbox.until(lambda: len(sandbox.books()["users"]) == 1)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert "(key 'a…@example.com')" in caplog.text
    assert "ada@" not in caplog.text
