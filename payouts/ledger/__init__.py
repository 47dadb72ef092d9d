"""The ledger: the rows of every campaign and their states, on disk."""
