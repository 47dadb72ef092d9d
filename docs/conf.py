"""Configuration of Sphinx."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rewards_core.version import VERSION

project = "rewards-async"
author = "The rewards-async developers"
project_copyright = "the rewards-async developers"
release = version = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs._ext.command_lines", "docs._ext.public_api"]
exclude_patterns = ["_build"]
nitpicky = True
smartquotes = False  # two dashes are those of an option
nitpick_ignore_regex = [  # of the standard library and of other packages: their inventories are not here
    ("py:.*", r"(aiohttp|asyncio|collections|contextlib|datetime|decimal|logging|os|pathlib|ssl|typing|web)\..*"),
    ("py:.*", r"Any|Awaitable|Callable|Decimal|Literal|Path|Self|T|collector"),
    ("py:.*", r".*[\[\]'.]+$|Mapping\[str"),
]
nitpick_ignore = [  # what signatures name and callers need not know
    ("py:class", name)
    for name in (
        *("A", "H", "R", "S", "webhooks.completions.A", "webhooks.receiver.H", "vendor_sandboxes.testing.rewards.T"),
        *(
            "AbstractAsyncContextManager",
            "AmountAs",
            "BodyProblem",
            "Client",
            "Collector",
            "Environment",
            "ReadPath",
            "Session",
            "Via",
        ),
        *("ClientOptions", "enkash_async.settings.ClientOptions", "webhooks.ingress.messages.BatchFailure"),
        *("webhooks.ingress.queue.QueueStatistics", "BeforePage", "Connection", "Database", "Ending", "Figures", "LedgerLock"),
        *("LedgerPlace", "MaySend", "Move", "PostgresLock", "payouts.ledger.worker.Worker", "LoopThread", "ReceivedRequest"),
        *("SandboxServer", "vendor_sandboxes.original_state.Operation", "vendor_sandboxes.original_webhooks.Delivery"),
    )
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "rewards-async"
html_static_path = ["_static"]
