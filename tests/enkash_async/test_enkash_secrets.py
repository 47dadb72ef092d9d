"""No secret is in any repr, text, pickle, copy, traceback, log line, observer record or file."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import sys
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
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ConfigurationError, ConnectFailed, OutcomeUnknown, RewardsError, Unauthorized
from rewards_core.secrets import Secret
from tests.canary import RecordCollector, locals_with, texts_of
from tests.enkash_async.enkash_kit import ALLOCATE_URL, AUTH, BALANCE_URL, COINS, CREATE_URL, TOKEN_REPLY, TOKEN_URL, outcome
from tests.stepped_time import SteppedTime

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
"""A vendor may echo what it was sent."""


def inside(root: object) -> Iterator[object]:
    """Yield every object of this project that is reachable through attributes and containers."""
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
    """Fail in every way that an answer, a broken connection, an argument or a store can cause."""
    problems = []
    for answer in answers_with(f"{ECHO} {TOKEN} {COOKIE} session={COOKIE}; theme=1"):
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


@pytest.mark.slow
@pytest.mark.repeats_itself
async def test_no_canary_leaves_its_cage(
    new_client: New, vendor: aioresponses, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    watcher = RecordCollector()
    clients: list[EnkashClient] = []

    def new(**arguments: Any) -> EnkashClient:
        clients.append(
            new_client(
                credentials=credentials(),
                observers=[watcher],
                extra_headers={"Cookie": f"session={COOKIE}; theme=1"},
                breaker_store=FileBreakerStore(tmp_path / f"breaker-{len(clients)}.json"),
                **arguments,
            )
        )
        return clients[-1]

    problems = await every_way_to_fail(new, vendor)

    assert len(problems) > 50
    assert [found for problem in problems for found in locals_with(problem, CANARIES)] == []
    texts = [text for problem in problems for text in texts_of(problem)]
    texts += [text for record in (*watcher.records, *caplog.records) for text in texts_of(record)]
    texts += [path.read_text() for path in tmp_path.iterdir()]
    reached = [one for client in clients for one in inside(client)]
    texts += [text for one in reached for text in (repr(one), str(one))]
    assert {"PasswordTokens", "PasswordCredentials", "AccessToken", "BodyCipher", "Secret", "CoinEndpoints"} <= {
        type(one).__name__ for one in reached
    }
    assert watcher.records
    assert caplog.records
    assert [(canary, text) for text in texts for canary in CANARIES if canary in text] == []


SPOILT: list[Callable[[str], Any]] = [
    lambda secret: f"{secret}\n",
    lambda secret: f"\u200b{secret}",
    lambda secret: f" {secret}",
    lambda secret: f"{secret[:9]}\t{secret}",
    lambda secret: f'"{secret}"',
    lambda secret: f"${{{secret}}}",
    lambda secret: f"{secret}\udcff",
    lambda secret: secret.encode(),
    lambda secret: [secret],
]
PARTS = {"client_secret": CLIENT_SECRET, "username": USERNAME, "password": PASSWORD}
VARIABLES = {
    "ENKASH_COINS_BASE_URL": COINS,
    "ENKASH_AUTH_BASE_URL": AUTH,
    "ENKASH_CLIENT_ID": "CEK1GZBO6A",
    **{f"ENKASH_{name.upper()}": secret for name, secret in PARTS.items()},
}


def refusals(make: Callable[[], object]) -> BaseException:
    """Return the error of a constructor, whose frames must hold no secret."""
    with pytest.raises((TypeError, ValueError, ImportError)) as caught:
        make()
    assert locals_with(caught.value, CANARIES) == []
    assert not [text for text in texts_of(caught.value) for canary in CANARIES if canary in text]
    return caught.value


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: repr(spoil("secret")))
def test_a_secret_that_was_spoilt_is_refused_in_words_and_by_no_frame_that_holds_it(
    spoil: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, secret in PARTS.items():
        wrong: dict[str, Any] = {**PARTS, name: spoil(secret)}
        assert str(refusals(lambda wrong=wrong: PasswordCredentials("CEK1GZBO6A", **wrong))).startswith(f"{name}: ")  # type: ignore[misc]
    refusals(lambda: PasswordCredentials(spoil(CLIENT_SECRET), **PARTS))
    assert str(refusals(lambda: StaticToken(spoil(TOKEN)))).startswith("access_token: ")
    assert str(refusals(lambda: BodyCipher(spoil(CLIENT_SECRET)))).startswith("client_secret: ")
    monkeypatch.setattr("os.environ", {"ENKASH_COINS_BASE_URL": COINS, "ENKASH_ACCESS_TOKEN": spoil(TOKEN)})
    assert str(refusals(EnkashClient.from_env)).startswith("ENKASH_ACCESS_TOKEN: ")
    for name, secret in PARTS.items():
        monkeypatch.setattr("os.environ", {**VARIABLES, f"ENKASH_{name.upper()}": spoil(secret)})
        assert str(refusals(EnkashClient.from_env)).startswith(f"ENKASH_{name.upper()}: ")


def test_spaces_may_stand_inside_what_a_person_chose_and_nowhere_else() -> None:
    PasswordCredentials("CEK1GZBO6A", "secret", "a user", "pass word")
    for parts in (
        ("a b", "secret", "user", "password"),
        ("id", "sec ret", "user", "password"),
        ("id", "s", "user", "pass\u00a0word"),
    ):
        with pytest.raises(ValueError, match=": "):
            PasswordCredentials(*parts)
    for make in (StaticToken, BodyCipher):
        with pytest.raises(ValueError, match=": "):
            make("two words")


def test_what_stands_beside_a_bad_argument_shows_in_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = {"Cookie": COOKIE}
    wrong: list[dict[str, Any]] = [
        {"extra_headers": {**cookie, "Host": "evil"}},
        {"extra_headers": {"Cookie": f"{COOKIE}\n"}},
        {"extra_headers": cookie, "company_id": "a b"},
        {"extra_headers": cookie, "retry": 5},
        {"extra_headers": cookie, "breaker_store": "breaker.json"},
        {"coins_base_url": f"https://user:{PASSWORD}@coins.example"},
        {"auth_base_url": f"https://auth.example/?password={PASSWORD}"},
        {"credentials": TOKEN},
        {"credentials": credentials(), "encryption": CLIENT_SECRET},
    ]
    for arguments in wrong:
        settings: dict[str, Any] = {"coins_base_url": COINS, "auth_base_url": AUTH, "credentials": credentials()}
        refusals(lambda given={**settings, **arguments}: EnkashClient(**given))  # type: ignore[misc]
    monkeypatch.setattr("os.environ", VARIABLES)
    for arguments in wrong[:7]:
        refusals(lambda given=arguments: EnkashClient.from_env(**given))  # type: ignore[misc]
    monkeypatch.setattr("os.environ", {**VARIABLES, "ENKASH_ACCESS_TOKEN": TOKEN})
    refusals(EnkashClient.from_env)
    monkeypatch.setattr("os.environ", {**VARIABLES, "ENKASH_COINS_BASE_URL": ""})
    refusals(EnkashClient.from_env)
    refusals(lambda: PasswordCredentials(f"CEK:{CLIENT_SECRET}", **PARTS))
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    refusals(lambda: BodyCipher(CLIENT_SECRET))


class Provider:
    """Returns or raises the given answer, or hangs."""

    def __init__(self, first: Any, second: Any = None) -> None:
        self.first = first
        self.second = second
        self.asked = asyncio.Event()

    async def token(self) -> Any:
        return await self.give(self.first)

    async def renew(self, refused: str) -> Any:
        return await self.give(self.second)

    async def give(self, answer: Any) -> Any:
        if answer is None:
            self.asked.set()
            await asyncio.Event().wait()
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Shows:
    def __repr__(self) -> str:
        return TOKEN


ODD = [
    *(spoil(TOKEN) for spoil in SPOILT),
    f"{TOKEN}\u00f6",
    Shows(),
    KeyError(TOKEN),
    Unauthorized("the vault is closed"),
    OutcomeUnknown("the vault did not answer"),
    ConfigurationError("the vault has no address"),
    TimeoutError(TOKEN),
]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
@pytest.mark.parametrize("renewed", [False, True])
async def test_what_a_provider_brings_shows_in_no_frame(new_client: New, vendor: aioresponses, odd: Any, renewed: bool) -> None:
    vendor.get(f"{BALANCE_URL}?userId=EK1", status=401, payload={"error_description": f"no {TOKEN}"}, repeat=True)
    client = new_client(credentials=Provider(TOKEN, odd) if renewed else Provider(odd), retry=RetryPolicy(attempts=1))

    problem = await outcome(client.get_balance("EK1"))

    assert isinstance(problem, RewardsError)
    assert locals_with(problem, CANARIES) == []
    assert TOKEN not in str(problem)


def _hang(asked: asyncio.Event) -> Callable[..., Any]:
    async def hang(url: Any, **kwargs: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    return hang


@pytest.mark.parametrize("where", ["token request", "call", "provider", "provider after a 401"])
async def test_who_is_cancelled_takes_no_secret_along(new_client: New, vendor: aioresponses, where: str) -> None:
    vendor.post(TOKEN_URL, payload={**TOKEN_REPLY, "access_token": TOKEN})
    provider = Provider(TOKEN if where == "provider after a 401" else None)
    asked = provider.asked
    if where.startswith("provider"):
        client = new_client(credentials=provider, company_id="C", extra_headers={"Cookie": COOKIE})
        vendor.post(ALLOCATE_URL, status=401, payload={"error_description": f"no {TOKEN}"})
    else:
        client = new_client(credentials=credentials(), extra_headers={"Cookie": COOKIE})
    if where == "token request":
        vendor.clear()
        vendor.post(TOKEN_URL, callback=_hang(asked))
    vendor.post(ALLOCATE_URL, callback=_hang(asked))
    call = asyncio.create_task(client.allocate_coins(event="E", user_id="EK1", request_id="R1"))
    await asked.wait()

    call.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await call

    modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert any(module.startswith("rewards_core.") for module in modules)  # so the search covered something
    assert locals_with(caught.value, CANARIES) == []


async def test_calls_that_run_out_of_time_leave_no_secret_in_a_frame(
    new_client: New, vendor: aioresponses, time: SteppedTime
) -> None:
    async def limited() -> None:
        async with asyncio.timeout(5):
            await client.get_balance("EK1")

    asked = asyncio.Event()
    vendor.post(TOKEN_URL, callback=_hang(asked))
    client = new_client(credentials=credentials())
    waiting = asyncio.gather(outcome(client.get_balance("EK1", timeout=5)), outcome(limited()))
    await asked.wait()
    time.at += 5.1
    vendor.clear()
    vendor.post(TOKEN_URL, payload={**TOKEN_REPLY, "access_token": TOKEN})
    vendor.post(ALLOCATE_URL, exception=TimeoutError(ECHO))
    late = await outcome(new_client(credentials=credentials()).allocate_coins(event="E", user_id="EK1", request_id="R1"))
    problems = [*await waiting, late]

    assert [type(problem) for problem in problems] == [ConnectFailed, TimeoutError, OutcomeUnknown]
    assert [found for problem in problems for found in locals_with(problem, CANARIES)] == []


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
    with pytest.raises(TypeError, match=r"pickled|process"):
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
