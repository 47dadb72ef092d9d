"""Both vendors played on aiohttp, with faults on request.

    async with OriginalSandbox(p503=0.1) as sandbox:
        client = OriginalClient(sandbox.api_key, sandbox.api_secret, base_url=sandbox.url)

`books()` tells what a sandbox was asked for and what it paid. The fixtures of `vendor_sandboxes.pytest_plugin` start
sandboxes in tests, and `python -m vendor_sandboxes` starts one from the command line.
"""

from typing import TYPE_CHECKING

from rewards_core.lazy_imports import lazy_names

if TYPE_CHECKING:
    from vendor_sandboxes.enkash import EnkashSandbox
    from vendor_sandboxes.original import OriginalSandbox

__all__ = ["EnkashSandbox", "OriginalSandbox"]

if not TYPE_CHECKING:  # the pytest plugin must not load aiohttp in suites that do not use it
    __getattr__ = lazy_names(__name__, __all__, ("enkash", "original"))
