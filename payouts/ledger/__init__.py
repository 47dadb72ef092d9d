"""The ledger: the rows of every campaign and how far each has come, on disk."""
