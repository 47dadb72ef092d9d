"""Both vendors on aiohttp, with faults on request."""

from vendor_sandboxes.enkash import EnkashSandbox
from vendor_sandboxes.original import OriginalSandbox

__all__ = ["EnkashSandbox", "OriginalSandbox"]
