"""A suite of a user of the pytest plugin."""

from __future__ import annotations

import pytest

HEAD = """
import asyncio, os, urllib.error, urllib.request
import pytest
from aiohttp import web
from original_async import AllocationFailed, OriginalClient, OriginalWebhooks
from enkash_async import EnkashClient
from rewards_core import *
from webhooks import Completions, MemoryStore, PollPolicy, Receiver

ALLOCATION = {"reward_uid": "764893807463", "to_user_uid": "110985463782", "amount": "1.23", "nonce": "order-1"}
"""


LOOPS = "asyncio_default_fixture_loop_scope = function\n"
AUTO = f"{LOOPS}asyncio_mode = auto\n"


def run(pytester: pytest.Pytester, suite: str, *arguments: str, ini: str = AUTO) -> pytest.RunResult:
    pytester.makeini(f"[pytest]\n{ini}")
    pytester.makepyfile(HEAD + suite)
    return pytester.runpytest_subprocess("--strict-markers", "-W", "error", "-p", "no:cacheprovider", *arguments, timeout=300)
