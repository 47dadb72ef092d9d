"""Asyncio client for the coins of EnKash."""
