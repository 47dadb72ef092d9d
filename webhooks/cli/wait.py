"""`webhook-listener wait`: wait until one operation settles; the exit code says how."""

from __future__ import annotations

import asyncio
import os
from enum import StrEnum
from typing import Annotated

import typer

from original_async import OriginalClient, kinds
from original_async.refs import checked_ref
from original_async.settings import has_credentials
from original_async.settlement import ending_in_words
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, check_finite, fail
from rewards_core.errors import NotFound, OperationCancelled, OperationFailed, RewardsError, StoreError
from rewards_core.operations import DEFAULT_SCOPE, Operation, OperationRef, OperationStatus
from rewards_core.validation import check_id
from webhooks.cli.errors import run_command
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.stores import open_existing
from webhooks.completions import Completions
from webhooks.errors import CompletionTimeout
from webhooks.store.base import Store, Subscriber
from webhooks.store.records import Outcome, Priority


class Kind(StrEnum):
    """The kinds of operations."""

    ALLOCATION = kinds.ALLOCATION
    CLAIM = kinds.CLAIM
    ASSET = kinds.ASSET
    EDIT = kinds.EDIT
    TRANSFER = kinds.TRANSFER
    BURN = kinds.BURN
    COLLECTION = kinds.COLLECTION
    REWARD = kinds.REWARD


def wait(
    uid: Annotated[str, typer.Argument(help="The operation's uid.")],
    kind: Annotated[Kind, typer.Option(metavar="KIND", help=f"The operation's kind: {', '.join(Kind)}.")] = Kind.ALLOCATION,
    scope: Annotated[str, typer.Option(help="The operation's scope.")] = DEFAULT_SCOPE,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", callback=check_finite, min=0)] = 300.0,
    store: StoreOption = DEFAULT_STORE,
    poll: Annotated[
        bool | None, typer.Option("--poll/--no-poll", help="Also poll the vendor. Default: if ORIGINAL_API_KEY is set.")
    ] = None,
    api_insecure: Annotated[bool, typer.Option("--api-insecure", help="Allow plain http to an API on another machine.")] = False,
    as_json: JsonOption = None,
) -> None:
    """Wait until an operation settles. Exit code: 0 done, 3 failed or cancelled, 4 timed out, 5 unknown to the vendor.

    Without API credentials of its own, the command asks a listener that has them to poll the operation at once.

    Example: webhook-listener wait 324167489835 --timeout 120 && ship
    """
    output = Output(as_json)
    polls = has_credentials(os.environ) if poll is None else poll

    async def work() -> None:
        ref = checked_ref(OperationRef(check_id(scope, "--scope"), kind.value, uid))
        async with open_existing(store) as inbox:
            if polls:
                async with (
                    OriginalClient.from_env(scope=ref.scope, allow_insecure=api_insecure) as client,
                    Completions(client, inbox) as completions,
                ):
                    operation = await wait_with_polls(completions, ref, timeout)
                    status, resource = OperationStatus(operation.status.outcome or operation.status), operation.raw
            else:
                outcome = await wait_for_outcome(inbox, ref, timeout)
                status, resource = outcome.status, outcome.resource
        output.record({**ref.as_dict(), "status": str(status), "resource": dict(resource)}, text=f"{ref}: {status}")
        if status is not OperationStatus.DONE:
            fail(ending_in_words(ref, status), Exit.FAILED)

    run_command(work, interrupted="Interrupted. The operation may still settle.")


async def wait_with_polls(completions: Completions, ref: OperationRef, timeout: float) -> Operation:
    """Wait with polls of the vendor's API; end the command if the operation is unknown or the time runs out."""
    try:
        return await completions.wait(ref, timeout=timeout, poll_now=True)
    except (OperationFailed, OperationCancelled) as error:
        return error.operation
    except StoreError:
        raise
    except CompletionTimeout as error:
        fail(str(error), Exit.NOT_YET)
    except RewardsError as error:
        fail(str(error), Exit.NOT_FOUND if isinstance(error, NotFound) else Exit.UNAVAILABLE)


class _Waiter(Subscriber):
    def __init__(self, ref: OperationRef) -> None:
        self._ref = ref
        self.woken = asyncio.Event()

    def waits_for(self, ref: OperationRef) -> bool:
        return ref == self._ref

    def settled(self, outcome: Outcome) -> None:
        if outcome.ref == self._ref:
            self.woken.set()

    def missed(self) -> None:
        self.woken.set()


async def wait_for_outcome(store: Store, ref: OperationRef, timeout: float) -> Outcome:
    """Wait for the outcome that a delivery, or a poll of another process, records."""
    waiter = _Waiter(ref)
    await store.subscribe(waiter)
    known = await store.watch([ref], poll_in=0.0)
    if known:
        return known[0]
    await store.hurry_polls([ref], Priority.WISH)
    try:
        async with asyncio.timeout(timeout):
            while True:
                await waiter.woken.wait()
                waiter.woken.clear()
                if known := await store.watch([ref], poll_in=0.0):  # the store may have released it meanwhile
                    return known[0]
    except TimeoutError:
        late = await store.outcome(ref)
        if late is not None:
            return late
        fail(
            f"{ref} did not settle within {timeout:g} s. It may still settle: wait again, and do not create it a second time. "
            "Only processes with API credentials poll the vendor: if no listener has them, set ORIGINAL_API_KEY and "
            "ORIGINAL_API_SECRET here.",
            Exit.NOT_YET,
        )
