"""What a person's editor says about EnKash's client; read by type checkers, run by nobody."""

from collections.abc import Mapping
from typing import Any, assert_type

from enkash_async import (
    BodyCipher,
    BreakerState,
    BreakerStore,
    CoinAllocation,
    CoinAllocationRequest,
    CoinConfiguration,
    CoinEvent,
    CoinEventRequest,
    EnkashClient,
    FileBreakerStore,
    MemoryBreakerStore,
    PasswordCredentials,
    StaticToken,
    TokenProvider,
    TokenUnavailable,
)


class Vault:
    """A provider of one's own needs no base class."""

    async def token(self) -> str:
        return "token"

    async def renew(self, refused: str) -> str:
        return refused.swapcase()


def stores() -> list[BreakerStore]:
    return [MemoryBreakerStore(), FileBreakerStore("breaker.json", lock_timeout=5)]


def providers() -> list[TokenProvider]:
    return [Vault(), StaticToken("token")]


async def use() -> None:
    credentials = PasswordCredentials("CEK1GZBO6A", "secret", "9000000000", "password")
    async with EnkashClient(
        coins_base_url="https://coins.example.com",
        auth_base_url="https://auth.example.com",
        credentials=credentials,
        breaker_store=stores()[0],
        encryption=BodyCipher("secret"),
        extra_headers={"Cookie": "JSESSIONID=1"},
    ) as client:
        assert_type(client, EnkashClient)
        event = await client.create_event(event="MEAL_CARD_PAYMENT", amount=6, configuration="CUSTOM")
        assert_type(event, CoinEvent)
        assert_type(event.amount, int)
        assert_type(event.company_id, str | None)
        assert_type(event.configuration, CoinConfiguration)
        assert_type(event.raw, Mapping[str, Any])
        assert_type(await client.update_event(event.coin_config_id, amount=7), CoinEvent)
        assert_type(await client.get_event(event.coin_config_id), CoinEvent)
        receipt = await client.allocate_coins(event=event.event, user_id="EKQZVMQK", request_id="R1")
        assert_type(receipt, CoinAllocation)
        assert_type(receipt.message, str)
        assert_type(await client.get_balance(receipt.user_id, timeout=5), int)


async def use_timeouts(client: EnkashClient) -> None:
    await client.create_event(event="MEAL_CARD_PAYMENT", amount=6, timeout=2.5)
    await client.get_event("WCC817428", timeout=None)
    await client.update_event("WCC817428", amount=7, timeout=5)
    await client.allocate_coins(event="MEAL_CARD_PAYMENT", user_id="EKQZVMQK", request_id="R1", timeout=5.0)
    await client.get_balance("EKQZVMQK", timeout="5")  # type: ignore[arg-type]


def use_requests(allocation: CoinAllocationRequest, event: CoinEventRequest) -> None:
    assert_type(allocation.request_id, str)
    assert_type(event.coin_config_id, str | None)
    assert_type(event.amount, int | None)
    assert_type(event.configuration, CoinConfiguration | None)


async def use_own_tokens() -> None:
    client = EnkashClient(coins_base_url="https://coins.example.com", credentials=Vault(), company_id="CEK1GZBO6A")
    try:
        await client.get_balance("EKQZVMQK")
    except TokenUnavailable as problem:
        assert_type(problem.retry_after, float | None)
    finally:
        await client.aclose()


async def use_store(store: BreakerStore) -> None:
    async with store.exclusive():
        assert_type(await store.load("account"), BreakerState)
        await store.save("account", BreakerState(unanswered=1))


def from_environment() -> None:
    assert_type(EnkashClient.from_env(repeat_allocations=True, breaker_store=stores()[1]), EnkashClient)
    assert_type(EnkashClient.from_env().repeat_allocations, bool)
    EnkashClient.from_env(repeat_allocations="false")  # type: ignore[arg-type]
