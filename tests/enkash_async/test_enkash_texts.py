"""The texts of this package's own errors; those of rewards_core are read in its tests."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from enkash_async import BodyCipher, EnkashClient, MemoryBreakerStore, PasswordCredentials, StaticToken
from enkash_async.breakers import FileBreakerStore
from enkash_async.envelope import read_event, read_success
from rewards_core.errors import ConfigurationError, OutcomeUnknown, RequestRejected, UnexpectedResponse
from rewards_core.http.messages import Answer
from tests.enkash_async.enkash_kit import AUTH, COINS, TokenEndpoint, credentials, outcome
from tests.stepped_time import SteppedTime
from tests.texts import refusals, said

New = Callable[..., Any]


async def test_the_texts_of_arguments_that_are_refused(new_client: New, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("COINS_BASE_URL", "AUTH_BASE_URL", "CLIENT_ID", "CLIENT_SECRET", "USERNAME", "PASSWORD", "ACCESS_TOKEN"):
        monkeypatch.delenv(f"ENKASH_{name}", raising=False)
    monkeypatch.setenv("ENKASH_COMPANY_ID", "two words")
    (tmp_path / "breaker.json").write_text("{}")
    known: dict[str, Any] = {"coins_base_url": COINS, "auth_base_url": AUTH}

    def both() -> EnkashClient:
        monkeypatch.setenv("ENKASH_ACCESS_TOKEN", "token")
        monkeypatch.setenv("ENKASH_PASSWORD", "password")
        return EnkashClient.from_env(**known)

    attempts: dict[str, Callable[[], object]] = {
        "nothing set": EnkashClient.from_env,
        "no credentials": lambda: EnkashClient.from_env(**known),
        "a company id": lambda: EnkashClient.from_env(**known, credentials=credentials()),
        "credentials and a token": both,
        "a client id": lambda: PasswordCredentials("a:b", "secret", "user", "password"),
        "a token": lambda: StaticToken("ö"),
        "encryption": lambda: new_client(credentials=StaticToken("t"), encryption=True),
        "an own header": lambda: new_client(extra_headers={"Authorization": "x"}),
        "a line break in a header": lambda: new_client(extra_headers={"Cookie": "a\nb"}),
        "a pickled client": lambda: pickle.dumps(new_client()),
        "a pickled cipher": lambda: pickle.dumps(BodyCipher("secret")),
    }
    said("arguments", refusals(attempts))
    client, company = new_client(), new_client(credentials=StaticToken("t"))
    problems = [
        await outcome(client.update_event("WCC1")),
        await outcome(company.allocate_coins(event="E", user_id="U", request_id="R")),
        await outcome(FileBreakerStore(tmp_path / "breaker.json").load("account")),
    ]
    said("calls", "\n".join(str(problem).replace(str(tmp_path), "FOLDER") for problem in problems))


def test_the_texts_of_answers_that_are_no_success() -> None:
    def answer(body: bytes, status: int = 200) -> Answer:
        return Answer(status, {}, body)

    def read(payload: str) -> Any:
        return read_success(answer(b'{"response_code":0,"payload":%b}' % payload.encode()))

    attempts: dict[str, Callable[[], object]] = {
        "no object": lambda: read_success(answer(b"[]")),
        "no code": lambda: read_success(answer(b"{}")),
        "another status": lambda: read_success(answer(b'{"response_code":0}', 201)),
        "a failure": lambda: read_success(answer(b'{"response_code":1,"response_message":"Insufficient balance"}')),
        "a failure without words": lambda: read_success(answer(b'{"response_code":1}')),
        "no event": lambda: read_event(read("5")),
        "no id": lambda: read_event(read("{}")),
        "another key": lambda: BodyCipher("one").decrypt(BodyCipher("two").encrypt(b"{}")),
    }
    said("answers", refusals(attempts, (RequestRejected, UnexpectedResponse)))


@pytest.mark.parametrize("proven", [True, False])
async def test_the_texts_of_tokens_that_are_not_available(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, proven: bool
) -> None:
    lines = []
    for status in (None, 302, 204, 503):
        tokens = new_tokens()
        if proven:
            await tokens.token()
            time.at += 300
        endpoint.script.extend([OutcomeUnknown("EnKash token: no answer", status=status)] * 2)
        lines.append(str(await outcome(tokens.token())))
    said(f"tokens: not answered, {'proven' if proven else 'unproven'} credentials", "\n".join(lines))


async def test_the_texts_of_credentials_and_stores_that_fail(new_tokens: New, endpoint: TokenEndpoint) -> None:
    class Broken(MemoryBreakerStore):
        async def load(self, account: str) -> Any:
            raise OSError(30, "Read-only file system")

    endpoint.script.append(RequestRejected("EnKash token: HTTP 400: Bad credentials", status=400))
    closed = new_tokens()
    await closed.aclose()
    problems = [await outcome(tokens.token()) for tokens in (new_tokens(), new_tokens(Broken()), closed)]
    said("tokens: rejected, without a store, closed", "\n".join(map(str, problems)))


async def test_the_text_of_a_provider_that_fails(new_client: New) -> None:
    class Provider:
        async def token(self) -> str:
            raise OutcomeUnknown("the vault did not answer")

        async def renew(self, refused: str) -> str:
            raise ConfigurationError("not reached")

    client = new_client(credentials=Provider(), company_id="C")
    said("tokens: a provider that fails", await outcome(client.get_balance("EK1")))
