"""Both vendors on aiohttp, with faults on request."""

from typing import TYPE_CHECKING

from rewards_core.lazy_imports import lazy_names

if TYPE_CHECKING:
    from vendor_sandboxes.enkash import EnkashSandbox
    from vendor_sandboxes.original import OriginalSandbox

__all__ = ["EnkashSandbox", "OriginalSandbox"]

if not TYPE_CHECKING:  # the pytest plugin must not load aiohttp in suites that do not use it
    __getattr__ = lazy_names(__name__, __all__, ("enkash", "original"))
