"""`webhook-listener wait`: wait for one operation, and say by the exit code how it ended."""

from __future__ import annotations

import asyncio
import os
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer

from original_async import OriginalClient
from original_async.models import ALLOCATION, CLAIM
from original_async.settings import has_credentials
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, finite
from rewards_core.errors import NotFound, OperationFailed, RewardsError, StoreError
from rewards_core.operations import DEFAULT_SCOPE, Operation, OperationRef, OperationStatus
from rewards_core.validation import check_id
from webhooks.cli.ending import run
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.stores import opened
from webhooks.completions import Completions
from webhooks.errors import CompletionTimeout
from webhooks.store.base import Store, Subscriber
from webhooks.store.records import Outcome, Priority


class Kind(StrEnum):
    """What can be waited for."""

    ALLOCATION = ALLOCATION
    CLAIM = CLAIM


_UNPAID = {
    Kind.ALLOCATION: "Nothing was paid; to try again, use a new nonce.",
    Kind.CLAIM: "No tokens moved; you may claim again.",
}


def wait(
    uid: Annotated[str, typer.Argument(help="The operation's uid.")],
    kind: Annotated[Kind, typer.Option(help="What the uid is of.")] = Kind.ALLOCATION,
    scope: Annotated[str, typer.Option(help="The scope of its app.")] = DEFAULT_SCOPE,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.", callback=finite, min=0)] = 300.0,
    store: StoreOption = DEFAULT_STORE,
    poll: Annotated[
        bool | None, typer.Option("--poll/--no-poll", help="Ask the vendor too; by default if ORIGINAL_API_KEY is set.")
    ] = None,
    api_insecure: Annotated[
        bool, typer.Option("--api-insecure", help="Allow an API on plain http outside this machine.")
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Wait until an operation is settled: exit code 0 done, 3 failed, 4 not in time, 5 unknown to the vendor.

    Without API credentials here, a listener that has them asks the vendor about the operation at once.

    Example: webhook-listener wait 324167489835 --timeout 120 && ship
    """
    output = Output(as_json)
    asks = has_credentials(os.environ) if poll is None else poll

    async def work() -> None:
        ref = OperationRef(check_id(scope, "--scope"), kind.value, check_id(uid, "uid"))
        async with opened(store) as inbox:
            if asks:
                async with (
                    OriginalClient.from_env(scope=ref.scope, allow_insecure=api_insecure) as client,
                    Completions(client, inbox) as completions,
                ):
                    operation = await _completed(completions, ref, timeout)
                    status, resource = operation.status, operation.raw
            else:
                outcome = await _settled(inbox, ref, timeout)
                status, resource = outcome.status, outcome.resource
        facts: dict[str, Any] = {"scope": ref.scope, "kind": ref.kind, "uid": ref.uid}
        output.record({**facts, "status": str(status), "resource": dict(resource)}, text=f"{ref}: {status}")
        if status is not OperationStatus.DONE:
            fail(f"{kind.value.capitalize()} {uid} failed on the blockchain. {_UNPAID[kind]}", Exit.FAILED)

    run(work, interrupted="Interrupted. The operation goes on and may still settle.")


async def _completed(completions: Completions, ref: OperationRef, timeout: float) -> Operation:
    """Return the operation once it is settled, with the vendor's help."""
    try:
        return await completions.wait(ref, timeout=timeout, poll_now=True)
    except OperationFailed as problem:
        return problem.operation
    except StoreError:
        raise
    except RewardsError as problem:
        fail(str(problem), _code(problem))


def _code(problem: RewardsError) -> Exit:
    if isinstance(problem, CompletionTimeout):
        return Exit.NOT_YET
    return Exit.NOT_FOUND if isinstance(problem, NotFound) else Exit.UNAVAILABLE


class _Waiter(Subscriber):
    def __init__(self, ref: OperationRef) -> None:
        self._ref = ref
        self.news = asyncio.Event()

    def waits_for(self, ref: OperationRef) -> bool:
        return ref == self._ref

    def settled(self, outcome: Outcome) -> None:
        if outcome.ref == self._ref:
            self.news.set()

    def missed(self) -> None:
        self.news.set()


async def _settled(store: Store, ref: OperationRef, timeout: float) -> Outcome:
    """Return how the operation was settled by deliveries, or by a listener that asks the vendor."""
    waiter = _Waiter(ref)
    await store.subscribe(waiter)
    known = await store.watch([ref], poll_in=0.0)
    if known:
        return known[0]
    await store.hurry_polls([ref], Priority.WISH)
    try:
        async with asyncio.timeout(timeout):
            while True:
                await waiter.news.wait()
                waiter.news.clear()
                if (outcome := await store.outcome(ref)) is not None:
                    return outcome
    except TimeoutError:
        late = await store.outcome(ref)
        return _give_up(ref, timeout) if late is None else late


def _give_up(ref: OperationRef, timeout: float) -> NoReturn:
    fail(
        f"{ref} did not settle within {timeout:g} s. It may still settle: wait again, do not send it again. The vendor is asked "
        "about it only by a process with API credentials; if no listener has them, set ORIGINAL_API_KEY and ORIGINAL_API_SECRET "
        "here.",
        Exit.NOT_YET,
    )
