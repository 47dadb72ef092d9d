"""Mint a badge for a user, change what it shows, and move it to an external wallet or burn it.

    python examples/badges.py ada@example.com A-1001 0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045

Without a wallet the badge is burned in the end. Give each badge an id of its own, and keep it before the call.
"""

import asyncio
import sys

from original_async import Asset, AssetAttribute, AssetData, OriginalClient, TransferCancelled
from rewards_core import OutcomeUnknown
from webhooks import Completions, MemoryStore, PollPolicy

COLLECTION = "471616646163"


def badge(level: int) -> AssetData:
    return AssetData(
        name="Early supporter",
        image_url="https://example.com/badge.png",
        unique_name=False,  # all badges have this name; the vendor appends the token's id
        attributes=[AssetAttribute(trait_type="Level", value=level)],
    )


async def mint(client: OriginalClient, completions: Completions, user_uid: str, badge_id: str) -> Asset:
    try:
        asset = await client.create_asset(
            user_uid=user_uid, collection_uid=COLLECTION, asset_external_id=badge_id, data=badge(level=1)
        )
    except OutcomeUnknown as unknown:  # it may have been minted: never send it again, wait until it shows
        found = await completions.wait(unknown, timeout=300)
        assert isinstance(found, Asset)
        return found
    return await completions.wait(asset, timeout=300)


async def main(email: str, badge_id: str, wallet: str | None) -> None:
    polling = PollPolicy(first_after=1.0)  # in a service, the store of its receiver: webhooks settle most before a poll
    async with OriginalClient.from_env() as client, Completions(client, MemoryStore(), polling=polling) as completions:
        user = await client.create_user(email=email)
        print(f"user {user.uid} is {'known' if user.recovered else 'new'}")
        asset = await mint(client, completions, user.uid, badge_id)
        print(f"{asset.name} is minted, token {asset.token_id}")
        edit = await completions.wait(await client.edit_asset(asset.uid, data=badge(level=2)), timeout=300)
        print(f"it is edited: {edit.status}")
        if wallet is None:
            burn = await client.create_burn(asset_uid=asset.uid, from_user_uid=user.uid)
            print(f"it is burned: {(await completions.wait(burn, timeout=300)).status}")
            return
        transfer = await client.create_transfer(asset_uid=asset.uid, from_user_uid=user.uid, to_address=wallet)
        try:
            print(f"it is moved: {(await completions.wait(transfer, timeout=300)).status}")
        except TransferCancelled:
            print("the transfer was cancelled: the user still has it")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit("usage: badges.py EMAIL BADGE_ID [WALLET]")
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else None))
