"""Both vendors played on aiohttp, with faults that can be switched on."""
