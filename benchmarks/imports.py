"""Wall time of imports and help texts in a fresh interpreter, compared with `import aiohttp`, which every client needs."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from benchmarks._results import row

EMPTY, AIOHTTP = "an empty interpreter", "import aiohttp"
MEASURED = {
    "from original_async import OriginalClient": ("-c", "from original_async import OriginalClient"),
    "from enkash_async import EnkashClient": ("-c", "from enkash_async import EnkashClient"),
    "from webhooks import Completions, Receiver": ("-c", "from webhooks import Completions, Receiver"),
    "payouts --help": ("-m", "payouts", "--help"),
    "payouts status --help": ("-m", "payouts", "status", "--help"),
    "webhook-listener --help": ("-m", "webhooks", "--help"),
}


def run(quick: bool) -> list[dict[str, Any]]:
    """Return the fastest of interleaved rounds for each, less the time of an empty interpreter."""
    programs = {EMPTY: ("-c", ""), AIOHTTP: ("-c", AIOHTTP), **MEASURED}
    fastest = dict.fromkeys(programs, float("inf"))
    for _ in range(1 if quick else 15):
        for name, arguments in programs.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
            fastest[name] = min(fastest[name], time.perf_counter() - began)
    spent = {name: 1000 * (seconds - fastest[EMPTY]) for name, seconds in fastest.items()}
    reference = f"{AIOHTTP}: {spent[AIOHTTP]:.0f} ms"
    return [
        row(name, spent[name], "ms", reference=reference, ratio=spent[name] / spent[AIOHTTP], bar="≤ 1.5") for name in MEASURED
    ]
