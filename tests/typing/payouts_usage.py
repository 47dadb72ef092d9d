"""What a person's editor says about rows of payouts; read by type checkers, run by nobody."""

from decimal import Decimal

from payouts import MintRow, OriginalRow

OriginalRow(id="1", reward_uid="2", to_user_uid="3", amount=Decimal("1.5"))
OriginalRow(id="1", reward_uid="2", to_user_uid="3", amount=1.5)  # type: ignore[arg-type]
MintRow(id="1", user_uid="2", collection_uid="3", name="n", image_url="i", unique_name="true", sale_price_in_usd=9)
MintRow(id="1", user_uid="2", collection_uid="3", name="n", image_url="i", unique_name=5)  # type: ignore[arg-type]
MintRow(id="1", user_uid="2", collection_uid="3", name="n", image_url="i", sale_price_in_usd=9.5)  # type: ignore[arg-type]
