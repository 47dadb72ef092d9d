"""How operations of every kind end: done as asked, cancelled, failed, or something else than was asked for."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from attrs import evolve

from original_async import (
    Asset,
    AssetMetadata,
    AssetRequest,
    Burn,
    BurnRequest,
    Collection,
    DeploymentStatus,
    Edit,
    EditRequest,
    OriginalClient,
    Reward,
    Transfer,
    TransferCancelled,
    TransferRequest,
)
from rewards_core.errors import OperationCancelled, OperationFailed, OperationMismatch, UnexpectedResponse
from rewards_core.operations import OperationRef, OperationStatus
from tests.original_async.test_original_assets import ASSET, SHOWN
from tests.original_async.test_original_transfers import CREATED_AT
from tests.original_async.test_original_transfers import TRANSFER as RESOURCE
from tests.texts import said

ASSET_MADE = Asset(uid="1", name="n", collection_uid="2", asset_external_id="x", is_minted=False, mint_for_user_uid="3")
TRANSFER = Transfer(uid="1", status=OperationStatus.PENDING, asset_uid="2", from_user_uid="3", to_address="0xAbC")
BURN = Burn(uid="1", status=OperationStatus.PENDING, asset_uid="2", from_user_uid="3")
COLLECTION = Collection(uid="1", name="c", status=DeploymentStatus.DEPLOYING)
REWARD = Reward(uid="1", name="r", status=DeploymentStatus.DEPLOYING, token_type="ERC20", token_name="ORI")
EDIT = Edit(uid="2:0123456789abcdef01234567")


def ended(operation: Any, word: str = "done") -> Any:
    if isinstance(operation, Asset):
        return evolve(operation, is_minted=True)
    if isinstance(operation, (Collection, Reward)):
        return evolve(operation, status=DeploymentStatus.DEPLOYED)
    return evolve(operation, status=OperationStatus(word))


@pytest.mark.parametrize("operation", [ASSET_MADE, TRANSFER, BURN, COLLECTION, REWARD])
def test_done_as_asked(client: OriginalClient, operation: Any) -> None:
    final = ended(operation)
    assert client.conclude(operation, final) is final
    assert client.conclude(None, final) is final
    with pytest.raises(ValueError, match="terminal"):
        client.conclude(None, operation)


@pytest.mark.parametrize(
    ("request_", "operation"),
    [
        (AssetRequest(user_uid="3", collection_uid="2", asset_external_id="x", name="n"), ASSET_MADE),
        (TransferRequest(asset_uid="2", from_user_uid="3", to_address="0xabc", asked_at=CREATED_AT), TRANSFER),
        (BurnRequest(asset_uid="2", from_user_uid="3"), BURN),
    ],
)
def test_what_was_found_by_its_request_is_recovered(client: OriginalClient, request_: Any, operation: Any) -> None:
    final = client.conclude(request_, ended(operation))
    assert final.recovered
    assert client.conclude(evolve(operation, recovered=True), ended(operation)).recovered


def test_a_cancelled_transfer_is_its_own_error(client: OriginalClient) -> None:
    with pytest.raises(TransferCancelled) as caught:
        client.conclude(TRANSFER, ended(TRANSFER, "cancelled"))
    said("conclude: a cancelled transfer", caught.value)
    assert isinstance(caught.value, OperationCancelled)
    assert not isinstance(caught.value, OperationFailed)
    assert caught.value.operation.status is OperationStatus.CANCELLED
    assert pickle.loads(pickle.dumps(caught.value)).operation == caught.value.operation


@pytest.mark.parametrize(
    ("operation", "word", "kind"), [(BURN, "failed", OperationFailed), (BURN, "cancelled", OperationCancelled)]
)
def test_ends_that_the_vendor_does_not_document(client: OriginalClient, operation: Any, word: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        client.conclude(operation, ended(operation, word))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("operation", "changes"),
    [
        (ASSET_MADE, {"uid": "9"}),
        (ASSET_MADE, {"asset_external_id": "y"}),
        (ASSET_MADE, {"collection_uid": "9"}),
        (ASSET_MADE, {"mint_for_user_uid": "9"}),
        (ASSET_MADE, {"name": "another"}),
        (ASSET_MADE, {"name": "n #2", "token_id": "1"}),
        (TRANSFER, {"uid": "9"}),
        (TRANSFER, {"asset_uid": "9"}),
        (TRANSFER, {"from_user_uid": "9"}),
        (TRANSFER, {"to_address": "0x9"}),
        (BURN, {"asset_uid": "9"}),
        (BURN, {"from_user_uid": "9"}),
        (COLLECTION, {"uid": "9"}),
        (REWARD, {"uid": "9"}),
    ],
)
def test_something_else_than_was_asked_for(client: OriginalClient, operation: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(OperationMismatch) as caught:
        client.conclude(operation, evolve(ended(operation), **changes))
    assert set(caught.value.differences) == set(changes) - {"token_id"}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "n #1", "token_id": "1"},
        {"name": "n#1", "token_id": "1", "metadata": AssetMetadata(name=None)},
        {"name": "n #1", "metadata": AssetMetadata(name="n")},
        {"name": "n", "token_id": "1", "metadata": AssetMetadata(name="n #1")},
    ],
)
def test_an_asset_keeps_its_name_whatever_the_vendor_appends(client: OriginalClient, changes: dict[str, Any]) -> None:
    asked = AssetRequest(user_uid="3", collection_uid="2", asset_external_id="x", name="n")
    for each in (ASSET_MADE, asked):
        assert client.conclude(each, evolve(ended(ASSET_MADE), **changes)) is not None


@pytest.mark.parametrize("changes", [{"asset_external_id": None}, {"mint_for_user_uid": None}])
def test_what_an_older_answer_leaves_out_is_no_difference(client: OriginalClient, changes: dict[str, Any]) -> None:
    client.conclude(ASSET_MADE, evolve(ended(ASSET_MADE), **changes))


def test_one_kind_is_not_another(client: OriginalClient) -> None:
    with pytest.raises(OperationMismatch, match="kind burn instead of transfer"):
        client.conclude(TRANSFER, ended(BURN))


@pytest.mark.parametrize("operation", [ASSET_MADE, TRANSFER, BURN, COLLECTION, REWARD, EDIT])
def test_every_kind_has_a_ref(client: OriginalClient, operation: Any) -> None:
    ref = client.ref_of(operation)
    assert client.ref_of(ref) is ref
    assert ref == OperationRef("default", ref.kind, operation.uid)
    of_itself = {"asset": "asset/1", "collection": "collection/1", "reward": None}
    assert ref.about == of_itself.get(ref.kind, "asset/2")
    assert client.ref_of(OperationRef(ref.scope, ref.kind, ref.uid)).about in {None, ref.about}


@pytest.mark.parametrize("operation", [ASSET_MADE, COLLECTION, EDIT])
def test_a_bare_ref_whose_uid_tells_it_learns_what_it_is_about(client: OriginalClient, operation: Any) -> None:
    assert client.ref_of(OperationRef("default", operation.ref.kind, operation.uid)).about == operation.ref.about


@pytest.mark.parametrize("uid", ["2", "2:", ":0123456789abcdef01234567", "2:0123", "2:0123456789abcdef0123456g"])
def test_a_uid_that_is_no_edits(client: OriginalClient, uid: str) -> None:
    with pytest.raises(ValueError, match="edit"):
        client.ref_of(OperationRef("default", "edit", uid))


@pytest.mark.parametrize(
    ("kind", "uid", "resource"),
    [
        ("asset", "151854912345", ASSET),
        ("transfer", "213134081289", RESOURCE),
        ("burn", "213134081289", RESOURCE),
        ("collection", "471616646163", SHOWN),
        ("edit", "151854912345:0123456789abcdef01234567", ASSET),
    ],
)
def test_a_stored_resource_becomes_its_model(client: OriginalClient, kind: str, uid: str, resource: dict[str, Any]) -> None:
    operation = client.parse_operation(OperationRef("default", kind, uid), resource)
    assert (operation.ref.kind, operation.uid, operation.raw) == (kind, uid, resource)
    with pytest.raises(UnexpectedResponse, match=r"data\.uid"):
        client.parse_operation(OperationRef("default", kind, uid.replace("1", "9", 1)), resource)


def test_requests_know_how_they_are_found() -> None:
    edit = EditRequest(asset_uid="2", token="0123456789abcdef01234567")
    assert (edit.kind, edit.key, edit.owner, edit.uid) == ("edit", edit.token, "2", EDIT.uid)
    asset = AssetRequest(user_uid="3", collection_uid="2", asset_external_id="x", name="n")
    assert (asset.kind, asset.key, asset.owner) == ("asset", "x", "3")
    assert asset.is_met_by(ASSET_MADE)
    assert asset.is_met_by(evolve(ASSET_MADE, mint_for_user_uid=None))
    others: list[dict[str, Any]] = [
        {"name": "m"},
        {"collection_uid": "9"},
        {"asset_external_id": "y"},
        {"mint_for_user_uid": "9"},
    ]
    for changes in others:
        assert not asset.is_met_by(evolve(ASSET_MADE, **changes))
    assert not asset.is_met_by(BURN)
    assert not edit.is_met_by(EDIT)
