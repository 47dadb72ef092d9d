"""Wall time of imports and of help in a fresh interpreter, against that of `import aiohttp`, without which no request is made."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

BAR = "≤ 1.5"
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
    """Return one row for each: the fastest of interleaved rounds, without what an empty interpreter takes."""
    programs = {EMPTY: ("-c", ""), AIOHTTP: ("-c", AIOHTTP), **MEASURED}
    fastest = dict.fromkeys(programs, float("inf"))
    for _ in range(1 if quick else 15):
        for name, arguments in programs.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
            fastest[name] = min(fastest[name], time.perf_counter() - began)
    spent = {name: 1000 * (seconds - fastest[EMPTY]) for name, seconds in fastest.items()}
    return [
        {
            "name": name,
            "value": spent[name],
            "unit": "ms",
            "reference": f"{AIOHTTP}: {spent[AIOHTTP]:.0f} ms",
            "ratio": spent[name] / spent[AIOHTTP],
            "bar": BAR,
        }
        for name in MEASURED
    ]
