"""Both vendors played on aiohttp, with faults that can be switched on."""

from vendor_sandboxes.original import OriginalSandbox

__all__ = ["OriginalSandbox"]
