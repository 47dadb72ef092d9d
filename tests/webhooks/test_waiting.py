from __future__ import annotations

from tests.webhooks.waiting_contract import WaitingContract


class TestWaiting(WaitingContract):
    pass
