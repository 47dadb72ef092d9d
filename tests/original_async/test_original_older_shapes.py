"""Transfers and burns that carry their user as `from_app_user_uid`, as the vendor's older documents show them."""

from __future__ import annotations

from typing import Any

import pytest

from original_async import OriginalClient
from rewards_core.errors import OutcomeUnknown
from tests.original_async.family_kit import WRITES, Write, set_stage
from vendor_sandboxes.original import OriginalSandbox

MOVES = {"transfer": "create_transfer", "burn": "create_burn"}
each_move = pytest.mark.parametrize("write", [each for each in WRITES if each.name in MOVES.values()], ids=MOVES)


@pytest.fixture(autouse=True)
def older(sandbox: OriginalSandbox) -> None:
    sandbox.options.from_user_key = "from_app_user_uid"


async def listed(original: OriginalClient, write: Write, user_uid: str) -> list[Any]:
    name = write.name.removeprefix("create_")
    found: list[Any] = await getattr(original, f"get_{name}s_by_user_uid")(user_uid)
    return found


@each_move
async def test_it_is_read_and_listed(original: OriginalClient, sandbox: OriginalSandbox, write: Write) -> None:
    stage = await set_stage(original, sandbox)
    made = await write.send(original, stage)
    read = await getattr(original, write.name.replace("create_", "get_"))(made.uid)
    assert (read.from_user_uid, read.raw["from_app_user_uid"]) == (stage.user_uid, stage.user_uid)
    assert "from_user_uid" not in read.raw
    assert await original.read_operation(made.ref) == read
    assert await listed(original, write, stage.user_uid) == [read]


@each_move
async def test_it_is_found_after_a_lost_reply(original: OriginalClient, sandbox: OriginalSandbox, write: Write) -> None:
    stage = await set_stage(original, sandbox)
    sandbox.script("drop_after_commit", method=write.method, path=write.path)
    made = await write.send(original, stage)
    assert (made.recovered, made.from_user_uid) == (True, stage.user_uid)
    assert "from_app_user_uid" in made.raw


@each_move
async def test_it_is_found_by_its_request_once_it_is_listed(
    original: OriginalClient, sandbox: OriginalSandbox, write: Write
) -> None:
    stage = await set_stage(original, sandbox)
    sandbox.options.list_lag = 3600.0
    sandbox.script("drop_after_commit", method=write.method, path=write.path)
    with pytest.raises(OutcomeUnknown) as caught:
        await write.send(original, stage)
    request = caught.value.request
    assert isinstance(request, write.request)
    sandbox.options.list_lag = 0.0
    (found,) = await original.find_operations([request])
    assert request.is_met_by(found)
    assert "from_app_user_uid" in found.raw
