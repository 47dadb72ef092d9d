"""`webhook-listener wait`: wait for one operation, and say by the exit code how it ended."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from enum import StrEnum
from typing import Annotated

import typer

from original_async import OriginalClient
from original_async.models import ALLOCATION, CLAIM
from original_async.settings import has_credentials
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, finite
from rewards_core.errors import NotFound, OperationFailed, VendorError
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

    Without API credentials a listener that has them polls this operation at once.

    Example: webhook-listener wait 324167489835 --timeout 120 && ship
    """
    if poll is None:
        poll = has_credentials(os.environ)

    async def work() -> None:
        ref = OperationRef(check_id(scope, "--scope"), kind.value, check_id(uid, "uid"))
        async with AsyncExitStack() as stack:
            inbox = await stack.enter_async_context(opened(store))
            if poll:
                client = await stack.enter_async_context(OriginalClient.from_env(scope=scope, allow_insecure=api_insecure))
                completions = await stack.enter_async_context(Completions(client, inbox))
                status, resource = _ended(await _completed(completions, ref, timeout))
            else:
                outcome = await _settled(inbox, ref, timeout)
                status, resource = outcome.status, dict(outcome.resource)
        Output(as_json).record({"uid": uid, "status": str(status), "resource": resource}, text=f"{ref}: {status}")
        if status is OperationStatus.FAILED:
            fail(f"{ref} failed on chain", Exit.FAILED)

    run(work)


async def _completed(completions: Completions, ref: OperationRef, timeout: float) -> Operation:
    try:
        return await completions.wait(ref, timeout=timeout, poll_now=True)
    except OperationFailed as problem:
        return problem.operation
    except CompletionTimeout as problem:
        fail(str(problem), Exit.NOT_YET)
    except NotFound as problem:
        fail(str(problem), Exit.NOT_FOUND)
    except VendorError as problem:
        fail(str(problem), Exit.UNAVAILABLE)


def _ended(operation: Operation) -> tuple[OperationStatus, dict[str, object]]:
    return operation.status, dict(operation.raw)


class _Waiter(Subscriber):
    def __init__(self, ref: OperationRef) -> None:
        self._ref = ref
        self.heard: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def waits_for(self, ref: OperationRef) -> bool:
        return ref == self._ref

    def settled(self, outcome: Outcome) -> None:
        if outcome.ref == self._ref and not self.heard.done():
            self.heard.set_result(outcome)


async def _settled(store: Store, ref: OperationRef, timeout: float) -> Outcome:
    waiter = _Waiter(ref)
    await store.subscribe(waiter)
    known = await store.watch([ref], poll_in=0.0)
    if known:
        return known[0]
    await store.hurry_polls([ref], Priority.WISH)
    try:
        async with asyncio.timeout(timeout):
            return await waiter.heard
    except TimeoutError:
        late = await store.outcome(ref)
        if late is not None:
            return late
        fail(
            f"{ref} did not settle within {timeout:g} s. It may still. It is polled by a listener that has API credentials; if "
            "there is none, set ORIGINAL_API_KEY and ORIGINAL_API_SECRET for this command.",
            Exit.NOT_YET,
        )
