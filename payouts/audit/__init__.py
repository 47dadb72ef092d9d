"""The ledger compared with the vendor's books."""
