"""The calls of the client, by family."""
