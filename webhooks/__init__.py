"""Receive, remember, wake: the webhook receiver and what waits on it."""
