"""Calls over HTTP: how often they are tried, and what each answer means."""
