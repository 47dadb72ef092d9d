"""The sandboxed Original answers requests, users and routes as the vendor's documents and tools show it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.sandboxes.conftest import complaints, refusal
from vendor_sandboxes import OriginalSandbox

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Caller

CallerOf = Callable[[OriginalSandbox], "Caller"]


@pytest.mark.parametrize("number", ["1e999999999", "1e-999999999", "1" * 70, f"-1e{'9' * 20}", f"1e{'9' * 20}"])
async def test_number_of_absurd_size_is_refused_in_no_time(caller_of: CallerOf, number: str) -> None:
    async with OriginalSandbox() as sandbox:
        body = f'{{"reward_uid": "r", "to_user_uid": "u", "amount": {number}, "nonce": "n"}}'.encode()
        assert complaints(await caller_of(sandbox).call("POST", "/reward/allocate", body)) == {("amount", "invalid")}


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"amount": NaN}', b"\xff", b"[" * 100_000, b'{"more": ' + b"[" * 200 + b"]" * 200 + b"}"]
)
async def test_body_that_is_no_json_is_refused(caller_of: CallerOf, body: bytes) -> None:
    async with OriginalSandbox() as sandbox:
        assert refusal(await caller_of(sandbox).call("POST", "/reward/allocate", body))[:2] == (400, "parse_error")


async def test_body_that_is_no_object_is_refused(caller_of: CallerOf) -> None:
    async with OriginalSandbox() as sandbox:
        answer = await caller_of(sandbox).call("POST", "/reward/allocate", b"[]")
        assert (answer.status, answer.error["type"]) == (400, "validation_error")


async def test_body_of_another_media_type_is_refused(caller_of: CallerOf) -> None:
    async with OriginalSandbox() as sandbox:
        answer = await caller_of(sandbox).call("POST", "/reward/allocate", b"{}", headers={"Content-Type": "text/plain"})
        assert refusal(answer)[:2] == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("path", "field"),
    [("/reward/balance?user_uid=u", "reward_uid"), ("/reward/allocate", "user_uid"), ("/reward/claim?user_uid", "user_uid")],
)
async def test_query_needs_its_names(caller_of: CallerOf, path: str, field: str) -> None:
    async with OriginalSandbox() as sandbox:
        assert {name for name, _ in complaints(await caller_of(sandbox).call("GET", path))} == {field}


async def test_user_may_be_nameless_and_names_are_unique(caller_of: CallerOf) -> None:
    async with OriginalSandbox() as sandbox:
        caller = caller_of(sandbox)
        assert (await caller.call("POST", "/user", {"email": None, "user_external_id": None})).status == 201
        assert (await caller.call("POST", "/user", {"user_external_id": "x"})).status == 201
        assert refusal(await caller.call("POST", "/user", {"user_external_id": "x"})) == (
            400,
            "bad_request",
            "User already exists.",
        )
        assert complaints(await caller.call("POST", "/user", {"user_external_id": 1, "email": "@"})) == {
            ("user_external_id", "invalid"),
            ("email", "invalid"),
        }
        assert refusal(await caller.call("GET", "/user"))[0] == 400
        assert len(sandbox.books()["users"]) == 2


@pytest.mark.parametrize("content_type", ["", "application/json", "application/x-www-form-urlencoded"])
async def test_user_is_created_by_a_body_of_no_bytes(caller_of: CallerOf, content_type: str) -> None:
    async with OriginalSandbox() as sandbox:
        caller = caller_of(sandbox)
        created = await caller.call("POST", "/user", headers={"Content-Type": content_type}, skip_auto_headers=["Content-Type"])
        assert created.status == 201
        user = (await caller.call("GET", f"/user/{created.data['uid']}")).data
        assert (user["email"], user["user_external_id"], user["wallets"]) == (None, None, [])
        anonymous = await caller.call("POST", "/user", headers={"X-API-KEY": ""})
        assert refusal(anonymous)[:2] == (401, "not_authenticated")
        assert sandbox.books()["users"] == [created.data["uid"]]


@pytest.mark.parametrize("kind", ["allocation", "claim"])
async def test_user_gets_a_wallet_with_the_first_confirmed_operation(caller_of: CallerOf, kind: str) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        user, other = [(await caller.call("POST", "/user", {})).data["uid"] for _ in range(2)]
        operations = [
            await (
                caller.allocate(f"nonce_{number}", to_user_uid=user) if kind == "allocation" else caller.claim(from_user_uid=user)
            )
            for number in range(3)
        ]
        first, *others = [operation.data["uid"] for operation in operations]
        await sandbox.settle(first, "failed", kind=kind)
        assert (await caller.call("GET", f"/user/{user}")).data["wallets"] == []
        for uid in others:
            await sandbox.settle(uid, kind=kind)
            (wallet,) = (await caller.call("GET", f"/user/{user}")).data["wallets"]
        assert re.fullmatch("0x[0-9a-f]{40}", wallet["address"])
        assert wallet == {
            "address": wallet["address"],
            "explorer_url": f"https://amoy.polygonscan.com/address/{wallet['address']}",
            "network": "Polygon",
            "chain_id": 80002,
        }
        assert (await caller.call("GET", f"/user/{other}")).data["wallets"] == []


@pytest.mark.parametrize(
    "path",
    ["/user/", "/reward/", "/reward", "/collection", "/asset/1/2", "/deposit/1", "/reward/allocate/1/2", "/", "/../v2/reward/1"],
)
async def test_unknown_route_is_a_page(caller_of: CallerOf, path: str) -> None:
    async with OriginalSandbox() as sandbox:
        answer = await caller_of(sandbox).call("GET", path)
        assert (answer.status, answer.reason) == (404, "Not Found")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/user/1"), ("PUT", "/reward/1"), ("PATCH", "/user")])
async def test_wrong_method_is_refused(caller_of: CallerOf, method: str, path: str) -> None:
    async with OriginalSandbox() as sandbox:
        assert refusal(await caller_of(sandbox).call(method, path))[:2] == (405, "method_not_allowed")


async def test_books_need_no_credentials_and_are_not_logged(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, p503=1) as sandbox:
        caller = caller_of(sandbox)
        caller.url = sandbox.origin
        answer = await caller.call("GET", "/_sandbox/books", headers={"X-API-KEY": "", "Authorization": ""})
        assert json.loads(answer.text) == sandbox.books()
        assert list(sandbox.requests) == []


async def test_log_of_requests_shows_what_arrived_but_no_credential(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        await caller.allocate("nonce_1")
        await caller.call("GET", f"/reward/allocate?user_uid=a%2Fb&api_secret={caller.secret}")
        first, second = sandbox.requests
        assert (first.method, first.path, first.json()["nonce"], first.fault) == (
            "POST",
            "/v1/reward/allocate",
            "nonce_1",
            "none",
        )
        assert {"x-api-key", "authorization", "content-type"} <= first.headers
        assert dict(second.query) == {"user_uid": "a/b", "api_secret": "[hidden]"}
        assert caller.secret not in repr(sandbox.requests)
        assert sandbox.books()["requests"] == {"POST": 1, "GET": 1}
