"""The kinds of operations, as in the refs by which stores know them."""

from __future__ import annotations

ALLOCATION = "allocation"
CLAIM = "claim"
ASSET = "asset"
"""The minting of an asset."""
EDIT = "edit"
"""An edit of an asset; its uid is the asset's, a colon and a token."""
TRANSFER = "transfer"
BURN = "burn"
COLLECTION = "collection"
"""The deployment of a collection."""
REWARD = "reward"
"""The deployment of a reward contract."""
KINDS = (ALLOCATION, CLAIM, ASSET, EDIT, TRANSFER, BURN, COLLECTION, REWARD)
"""All of them."""

WHAT_HAPPENED = {
    ALLOCATION: "Nothing was paid; to try again, use a new nonce.",
    CLAIM: "No tokens moved; you may claim again.",
    TRANSFER: "It moved nothing; read the asset before you call again.",
    BURN: "The asset was not burned; read it before you call again.",
}
"""What it means that an operation ended without being done, by its kind."""
