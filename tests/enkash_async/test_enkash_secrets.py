"""Secrets stay where they are: in no repr, text, pickle, copy, traceback, log line, observer record or file."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from aioresponses import aioresponses

from enkash_async import BodyCipher, EnkashClient, FileBreakerStore, PasswordCredentials, StaticToken
from enkash_async.credentials import AccessToken
from rewards_core.secrets import Secret
from tests.enkash_async.enkash_kit import ALLOCATE_URL, BALANCE_URL, CREATE_URL, TOKEN_REPLY, TOKEN_URL, Clock, outcome

New = Callable[..., EnkashClient]

CLIENT_SECRET = "canary-client-secret"
USERNAME = "canary-username"
PASSWORD = "canary-p@ss word+1"
TOKEN = "canary-access-token"
COOKIE = "canary-cookie"
BASIC = b64encode(f"CEK1GZBO6A:{CLIENT_SECRET}".encode()).decode()
FORM = quote_plus(PASSWORD)
CANARIES = (CLIENT_SECRET, USERNAME, PASSWORD, FORM, TOKEN, COOKIE, BASIC)

ECHO = f"{CLIENT_SECRET} {USERNAME} {PASSWORD} password={FORM}& {BASIC}"
"""A vendor may repeat what it was sent."""


class Watcher:
    def __init__(self) -> None:
        self.records: list[Any] = []

    def on_start(self, record: Any) -> None:
        self.records.append(record)

    on_retry = on_end = on_start


def shown(problem: BaseException) -> Iterator[str]:
    """Give every way in which an exception shows itself."""
    for one in (problem, copy.copy(problem), copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):
        yield repr(one)
        yield str(one)
        yield repr(vars(one))
    yield pickle.dumps(problem).decode("latin-1")
    yield "".join(traceback.format_exception(problem))


def inside(root: object) -> Iterator[object]:
    """Give every object of ours that can be reached through attributes and containers."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (list, tuple, set)):
            waiting += one
        elif isinstance(one, dict):
            waiting += one.values()
        elif type(one).__module__.split(".")[0] in {"enkash_async", "rewards_core"}:
            yield one
            names = [name for cls in type(one).__mro__ for name in getattr(cls, "__slots__", ())]
            waiting += [getattr(one, name, None) for name in (*names, *getattr(one, "__dict__", {}))]


def credentials() -> PasswordCredentials:
    return PasswordCredentials("CEK1GZBO6A", CLIENT_SECRET, USERNAME, PASSWORD)


async def every_way_to_fail(new: New, vendor: aioresponses) -> list[BaseException]:
    """Fail in every way an answer, a broken line, an argument or a store can make a call fail."""
    problems = []
    for answer in answers_with(f"{ECHO} {TOKEN}"):
        for method, url in (("POST", ALLOCATE_URL), ("POST", CREATE_URL), ("GET", f"{BALANCE_URL}?userId=EK1")):
            vendor.add(url, method, **answer, repeat=True)
        vendor.post(TOKEN_URL, payload={**TOKEN_REPLY, "access_token": TOKEN}, repeat=True)
        client = new(encryption=True)
        for call in (
            client.allocate_coins(event="E", user_id="EK1", request_id="R1"),
            client.create_event(event="E", amount=1),
            client.get_balance("EK1"),
        ):
            problems.append(await outcome(call))
        vendor.clear()
    for answer in answers_with(ECHO):
        vendor.post(TOKEN_URL, **answer, repeat=True)
        problems.append(await outcome(new().get_balance("EK1")))
        vendor.clear()
    return [problem for problem in problems if isinstance(problem, BaseException)]


def answers_with(echo: str) -> list[dict[str, Any]]:
    envelope = {"response_code": 1, "response_message": echo, "payload": echo}
    return [
        *({"status": status, "payload": envelope} for status in (200, 400, 401, 403, 404, 409, 422, 429, 500)),
        *({"status": status, "body": echo} for status in (200, 302, 400, 401, 503)),
        {"status": 401, "payload": {"error": "invalid_token", "error_description": echo}},
        {"payload": {"response_code": 0, "payload": {"coinConfigId": echo, "amount": echo}}},
        {"exception": OSError(echo)},
    ]


async def test_no_canary_leaves_its_cage(
    new_client: New, vendor: aioresponses, caplog: pytest.LogCaptureFixture, tmp_path: Path, clock: Clock
) -> None:
    caplog.set_level(logging.DEBUG)
    watcher = Watcher()
    clients: list[EnkashClient] = []

    def new(**arguments: Any) -> EnkashClient:
        clients.append(
            new_client(
                credentials=credentials(),
                observers=[watcher],
                extra_headers={"Cookie": COOKIE},
                breaker_store=FileBreakerStore(tmp_path / f"breaker-{len(clients)}.json", clock=clock, sleep=clock.sleep),
                **arguments,
            )
        )
        return clients[-1]

    problems = await every_way_to_fail(new, vendor)

    assert len(problems) > 50
    texts = [text for problem in problems for text in shown(problem)]
    texts += [text for record in watcher.records for text in (repr(record), str(record), pickle.dumps(record).decode("latin-1"))]
    texts += [record.getMessage() + str(record.exc_text) for record in caplog.records]
    texts += [path.read_text() for path in tmp_path.iterdir()]
    reached = [one for client in clients for one in inside(client)]
    texts += [text for one in reached for text in (repr(one), str(one))]
    assert {"PasswordTokens", "PasswordCredentials", "AccessToken", "BodyCipher", "Secret", "Transport"} <= {
        type(one).__name__ for one in reached
    }
    assert watcher.records
    assert caplog.records
    assert [(canary, text) for text in texts for canary in CANARIES if canary in text] == []


@pytest.mark.parametrize(
    "holder",
    [
        credentials(),
        StaticToken(TOKEN),
        AccessToken(value=Secret(TOKEN), expires_in=300.0),
        BodyCipher(CLIENT_SECRET),
        EnkashClient(coins_base_url="https://coins.example", auth_base_url="https://auth.example", credentials=credentials()),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_who_holds_a_secret_cannot_be_pickled(holder: object) -> None:
    with pytest.raises(TypeError, match=r"cannot be (copied or )?pickled"):
        pickle.dumps(holder)


def test_a_copy_of_credentials_hides_them_as_well() -> None:
    for one in (copy.copy(credentials()), copy.deepcopy(credentials())):
        assert one == credentials()
        assert "canary" not in repr(one)
        assert "CEK1GZBO6A" not in repr(one)


async def test_the_message_of_a_bad_argument_holds_no_secret(new_client: New) -> None:
    for arguments in (
        {"coins_base_url": f"https://user:{PASSWORD}@coins.example"},
        {"auth_base_url": f"https://{PASSWORD}@auth.example"},
        {"extra_headers": {"Cookie": f"{COOKIE}\n"}},
        {"extra_headers": {"Authorization": TOKEN}},
    ):
        with pytest.raises(ValueError) as caught:
            new_client(**arguments)
        assert not [canary for canary in CANARIES if canary in str(caught.value)]


async def test_no_secret_stands_in_an_address(new_client: New, vendor: aioresponses) -> None:
    vendor.post(TOKEN_URL, payload={**TOKEN_REPLY, "access_token": TOKEN})
    vendor.get(f"{BALANCE_URL}?userId=EK1", body=json.dumps({"response_code": 0, "payload": 1}))

    await new_client(credentials=credentials()).get_balance("EK1")

    assert not [url for _, url in vendor.requests for canary in CANARIES if canary in str(url)]
