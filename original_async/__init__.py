"""Asyncio client for the reward family of Original."""
