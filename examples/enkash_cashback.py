"""Give cashback coins to a list of users: configure an event, allocate to all users, print their balances.

Against a sandboxed EnKash, without any set-up:

    python examples/enkash_cashback.py --sandbox

Against EnKash, with ENKASH_COINS_BASE_URL, ENKASH_AUTH_BASE_URL, ENKASH_CLIENT_ID, ENKASH_CLIENT_SECRET, ENKASH_USERNAME and
ENKASH_PASSWORD in the environment:

    python examples/enkash_cashback.py --campaign diwali-2026 EKQZVMQK EK6CYE6K

Run a campaign once: EnKash does not document what it does with a request id it has seen before. `payouts run` keeps a ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack

from enkash_async import EnkashClient, FileBreakerStore, PasswordCredentials
from rewards_core import OutcomeUnknown, VendorError

SAMPLE_USERS = ["EKQZVMQK", "EK6CYE6K", "EKIQB4L2", "EK04AZHX", "EKDM5AVZ"]


async def open_client(options: argparse.Namespace, stack: AsyncExitStack) -> EnkashClient:
    """Return a client of the sandbox, or one from the environment; the stack closes it."""
    if not options.sandbox:
        store = FileBreakerStore(options.breaker_file)  # a wrong password is tried once, however often this runs
        return await stack.enter_async_context(EnkashClient.from_env(breaker_store=store))

    from vendor_sandboxes import EnkashSandbox  # noqa: PLC0415 - only for --sandbox

    sandbox = await stack.enter_async_context(EnkashSandbox(latency=(0.005, 0.05)))
    credentials = PasswordCredentials(sandbox.client_id, sandbox.client_secret, sandbox.username, sandbox.password)
    client = EnkashClient(coins_base_url=sandbox.url, auth_base_url=sandbox.url, credentials=credentials)
    return await stack.enter_async_context(client)


async def grant(client: EnkashClient, event: str, user: str, campaign: str) -> bool:
    """Allocate once to one user; return whether the coins were given."""
    request_id = f"{campaign}-{user}"  # the same in every run of this campaign
    try:
        receipt = await client.allocate_coins(event=event, user_id=user, request_id=request_id)
    except OutcomeUnknown as problem:
        print(f"{user}: unknown: {problem}")
    except VendorError as problem:  # any other error: this run gave nothing
        print(f"{user}: nothing given by this run: {problem}")
    else:
        print(f"{user}: {receipt.message} ({receipt.request_id})")
        return True
    return False


async def balance(client: EnkashClient, user: str) -> str:
    """Return a line with the balance of a user."""
    try:
        return f"{user} has {await client.get_balance(user)} coins"
    except VendorError as problem:
        return f"{user}: balance unknown: {problem}"


async def cashback(options: argparse.Namespace) -> int:
    """Configure the event, allocate, and print balances; return the exit code."""
    async with AsyncExitStack() as stack:
        client = await open_client(options, stack)
        event = await client.create_event(event=options.event, amount=options.coins)
        print(f"{event.event} gives {event.amount} coins ({event.coin_config_id})")
        users = list(dict.fromkeys(options.users))  # each user once
        given = await asyncio.gather(*(grant(client, event.event, user, options.campaign) for user in users))
        print(*await asyncio.gather(*(balance(client, user) for user in users)), sep="\n")
    return 0 if all(given) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Give cashback coins to a list of users.")
    parser.add_argument("users", nargs="*", default=SAMPLE_USERS, metavar="USER", help="EnKash user ids")
    parser.add_argument("--event", default="MEAL_CARD_PAYMENT", help="name of the event (default %(default)s)")
    parser.add_argument("--coins", type=int, default=6, help="coins for each user (default %(default)s)")
    parser.add_argument("--campaign", default="cashback-1", help="first part of every request id (default %(default)s)")
    parser.add_argument(
        "--breaker-file", default="enkash-breaker.json", help="remembers a refused password (default %(default)s)"
    )
    parser.add_argument("--sandbox", action="store_true", help="run against a sandboxed EnKash in this process")
    options = parser.parse_args()
    try:
        return asyncio.run(cashback(options))
    except (VendorError, ValueError) as problem:
        print(f"stopped: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
