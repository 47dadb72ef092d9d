"""Finding the operation of a call whose reply was lost, without waiting, and what cannot be waited for."""

from __future__ import annotations

import asyncio

import pytest

from rewards_core.errors import OutcomeUnknown
from rewards_core.operations import OperationStatus
from tests.texts import said
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import a_ref, a_thing, lost
from tests.webhooks.world import a_world, now
from webhooks import CompletionTimeout

# finding without waiting


@virtual_time
async def test_finding_returns_the_ref_of_what_is_still_pending_and_asks_no_further() -> None:
    async with a_world() as world:
        waiting = asyncio.create_task(world.completions.find(lost("k"), timeout=60))
        await asyncio.sleep(0.5)
        world.vendor.holds(a_thing("1", key="k"))
        assert await waiting == a_ref("1")
        assert (now(), world.vendor.reads) == (1.0, [])
        assert await world.pending() == set()


@virtual_time
async def test_finding_keeps_the_outcome_that_a_look_up_shows() -> None:
    async with a_world() as world:
        world.vendor.holds(a_thing("1", "failed", key="k"))
        assert await world.completions.find(lost("k")) == a_ref("1")
        outcome = await world.store.outcome(a_ref("1"))
        assert (outcome.status, outcome.via, outcome.key) == (OperationStatus.FAILED, "poll", "k")
        assert await world.completions.find(lost("k")) == a_ref("1")
        assert len(world.vendor.look_ups) == 1


@virtual_time
async def test_finding_ends_with_its_time() -> None:
    async with a_world() as world:
        with pytest.raises(CompletionTimeout) as caught:
            await world.completions.find(lost("k"), timeout=5)
        said("finding ends with its time", caught.value)
        assert now() == 5.0
        with pytest.raises(ValueError, match="nan"):
            await world.completions.find(lost("k"), timeout=float("nan"))


# what cannot be waited for


@virtual_time
async def test_a_call_without_a_key_is_refused_at_once_with_the_advice_of_the_error() -> None:
    class Claim:
        scope = "default"

    async with a_world() as world:
        for request in (None, Claim()):
            with pytest.raises(ValueError) as caught:
                await world.completions.wait(OutcomeUnknown("look before you repeat it", request=request), timeout=60)
            said("a call without a key is refused at once with the advice of the error", caught.value)
            with pytest.raises(ValueError) as caught:
                await world.completions.find(OutcomeUnknown("look before you repeat it", request=request))
            said("a call without a key is refused at once with the advice of the error", caught.value)
        assert now() == 0.0
        assert world.vendor.look_ups == []


@virtual_time
async def test_what_is_no_unknown_outcome_is_not_searched_for() -> None:
    async with a_world() as world:
        for wrong in ("123456789012", None):
            with pytest.raises(TypeError, match=r"^unknown: give OutcomeUnknown\(\.\.\.\), not "):
                await world.completions.find(wrong)  # type: ignore[arg-type]


@virtual_time
async def test_a_call_made_in_another_scope_is_refused_at_once() -> None:
    async with a_world() as world:
        with pytest.raises(ValueError) as caught:
            await world.completions.wait(lost("k", scope="other"), timeout=60)
        said("a call made in another scope is refused at once", caught.value)
