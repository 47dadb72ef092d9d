from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.webhooks.store_contract")
pytest.register_assert_rewrite("tests.webhooks.waiting_contract")
pytest.register_assert_rewrite("tests.webhooks.polls_contract")
