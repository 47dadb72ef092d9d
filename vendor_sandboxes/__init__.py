"""Both vendors played on aiohttp, with faults that can be switched on."""

from vendor_sandboxes.enkash import EnkashSandbox
from vendor_sandboxes.original import OriginalSandbox

__all__ = ["EnkashSandbox", "OriginalSandbox"]
