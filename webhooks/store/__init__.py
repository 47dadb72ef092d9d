"""Where events, outcomes and pending operations are kept."""

from webhooks.store.url import open_store, store_file

__all__ = ["open_store", "store_file"]
