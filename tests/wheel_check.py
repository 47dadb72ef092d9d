"""Install the wheel with each extra from the package index, as users do, and see that each does what it is for.

`make wheel-check` runs this before a release; it needs the network. `test_wheel` does the same with what is installed here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from rewards_core.version import VERSION

ROOT = Path(__file__).resolve().parents[1]

IMPORT_ALL = """
import importlib, pkgutil, sys
left_out, missing, *names = sys.argv[1:]
for name in missing.split():
    sys.modules[name] = None
for name in names:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not set(module.name.split(".")) & set(left_out.split()):
            importlib.import_module(module.name)
    print(package.__file__)
"""
PACKAGES = ("enkash_async", "original_async", "payouts", "rewards_core", "vendor_sandboxes", "webhooks")
OF_POSTGRES = [path.stem for folder in ("webhooks/store", "payouts/ledger") for path in (ROOT / folder).glob("postgres*.py")]
_NO_POSTGRES = " ".join(OF_POSTGRES)

_ENCRYPTS = "from enkash_async.encryption import BodyCipher; assert b'request' in BodyCipher('a-client-secret').encrypt(b'{}')"
_COUNTS = "from webhooks.cli.metrics import Metrics; Metrics({}).settled"
_TRACES = "from rewards_core import CallSpans; CallSpans('original')"
_TESTS = """
import pathlib, pytest, sys
pathlib.Path("test_kit.py").write_text("def test_paid(rewards, rewards_books): assert not rewards_books.payments")
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "test_kit.py"]))
"""

PROMISES: dict[str, Sequence[tuple[str, ...]]] = {
    "": [("-c", IMPORT_ALL, f"__main__ cli sqs prometheus pytest_plugin {_NO_POSTGRES}", "", *PACKAGES)],
    "cli": [
        ("-m", "payouts", "--version"),
        ("-m", "webhooks", "--version"),
        ("-c", IMPORT_ALL, f"__main__ sqs metrics prometheus pytest_plugin postgres_checks {_NO_POSTGRES}", "", *PACKAGES),
    ],
    "encryption": [("-c", _ENCRYPTS)],
    "cli,metrics": [("-c", _COUNTS)],
    "postgres": [("-c", "import webhooks.store.postgres, payouts.ledger.postgres, payouts.ledger.postgres_planner")],
    "otel": [("-c", _TRACES)],
    "test-kit": [("-c", _TESTS)],
    "sqs": [("-c", "import webhooks.ingress.sqs")],
    "cli,encryption,metrics,otel,postgres,sqs,test-kit": [("-c", IMPORT_ALL, "__main__", "", *PACKAGES)],
}
"""For each set of extras, what must work where nothing else is installed: the arguments of the interpreter."""


def keep_promise(python: Path, arguments: Sequence[str], folder: Path) -> None:
    """Run an interpreter, and raise `AssertionError` with what it said unless it ends well."""
    done = subprocess.run([str(python), "-I", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    if "--version" in arguments:
        assert done.stdout.split()[-1] == VERSION


def build(target: Path, *options: str) -> Path:
    """Build the wheel into a folder, and return it."""
    command = [sys.executable, "-m", "build", "--wheel", *options, "--outdir", str(target), str(ROOT)]
    done = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl")
    return built


def main() -> None:
    """Check each set of extras; an error ends the program."""
    with tempfile.TemporaryDirectory(prefix="wheel-check-") as scratch:
        folder = Path(scratch)
        wheel = build(folder)
        for extras, promises in PROMISES.items():
            home = folder / (extras or "none")
            venv.create(home, with_pip=True)
            python = home / "bin" / "python"
            wanted = f"{wheel}[{extras}]" if extras else str(wheel)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted], check=True)
            for promise in promises:
                keep_promise(python, promise, folder)
            print(f"{wheel.name} with {extras or 'no extra'}: as promised", flush=True)


if __name__ == "__main__":
    main()
