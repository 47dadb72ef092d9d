"""The console: a live, read-only page about a store and the listener that fills it."""
