"""Plant each known fault in a copy of the tree and see that the tests named for it turn red.

Usage: python tests/mutants/run.py [PART ...] [--jobs N]

Each `tests/mutants/PART.toml` holds tables `[[mutant]]` with name, file, old, new and tests. A fault that leaves its tests green
means that a guarantee is not watched: the run ends with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "inbox.db*", "payouts.db*", "dist", "build", ".coverage*"
)
TESTS_FAILED = 1


def load(parts: list[str]) -> list[dict[str, Any]]:
    """Return the mutants of the parts named, or of all, each with its part."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        if not parts or path.stem in parts:
            found += [{**mutant, "part": path.stem} for mutant in tomllib.loads(path.read_text("utf-8"))["mutant"]]
    return found


def planted(text: str, mutant: dict[str, Any]) -> str:
    """Return the file's text with the fault in it.

    Raises:
        ValueError: the text to replace does not stand there exactly once, or the fault changes nothing.
    """
    if (count := text.count(mutant["old"])) != 1:
        raise ValueError(
            f"{mutant['part']}: {mutant['name']}: expected its old text once in {mutant['file']}, found it {count} times"
        )
    if mutant["old"] == mutant["new"]:
        raise ValueError(f"{mutant['part']}: {mutant['name']}: old and new are the same")
    return text.replace(mutant["old"], mutant["new"])


def try_one(mutant: dict[str, Any], copies: Queue[Path]) -> tuple[bool, str]:
    """Plant one fault in a free copy, run its tests, take it out; return whether they turned red and a line about it."""
    copy = copies.get()
    target = copy / mutant["file"]
    sound = target.read_text("utf-8")
    started = time.monotonic()
    try:
        target.write_text(planted(sound, mutant), "utf-8")
        done = run_tests(mutant["tests"], copy, timeout=300)
        code, tail = done.returncode, (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]
    except subprocess.TimeoutExpired:
        code, tail = TESTS_FAILED, "stopped after 300 s"
    finally:
        target.write_text(sound, "utf-8")
        copies.put(copy)
    red = code == TESTS_FAILED
    word = "red  " if red else "GREEN" if code == 0 else f"ERROR {code}"
    return red, f"{word} {mutant['part']}: {mutant['name']} ({time.monotonic() - started:.1f} s) {'' if red else tail}"


def all_green(mutants: list[dict[str, Any]], copy: Path) -> bool:
    """Run every test named once without a fault; a red one would make its faults look watched."""
    tests = sorted({test for mutant in mutants for test in mutant["tests"]})
    done = run_tests(tests, copy, timeout=1800)
    if done.returncode != 0:
        print(done.stdout[-3000:] + done.stderr[-1000:])
    return done.returncode == 0


def run_tests(tests: list[str], copy: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run tests in a copy, until the first is red."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description="Plant each known fault in a copy and see its tests turn red.")
    parser.add_argument("parts", nargs="*", help="names of the .toml files; all if none is given")
    parser.add_argument("--jobs", type=int, default=2, help="copies at work at once (default 2)")
    options = parser.parse_args()
    mutants = load(options.parts)
    for mutant in mutants:
        planted((ROOT / mutant["file"]).read_text("utf-8"), mutant)
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies: Queue[Path] = Queue()
        for number in range(options.jobs):
            copies.put(Path(shutil.copytree(ROOT, Path(scratch) / str(number), ignore=LEFT_OUT)))
        if not all_green(mutants, Path(scratch) / "0"):
            print("the tests are red without any fault: mend them first")
            return 1
        with ThreadPoolExecutor(options.jobs) as pool:
            for number, (red, line) in enumerate(pool.map(lambda mutant: try_one(mutant, copies), mutants), 1):
                survived += not red
                print(f"[{number}/{len(mutants)}] {line}", flush=True)
    print(f"{len(mutants) - survived} of {len(mutants)} faults turned a test red")
    return 1 if survived or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
