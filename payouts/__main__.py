"""Entry point of `payouts` and `python -m payouts`, which need the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without its extra say which to install, with exit code 2."""
    try:
        from payouts.cli import app  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as problem:
        if problem.name not in {"typer", "rich"}:
            raise
        sys.stderr.write(f"payouts needs {problem.name}: pip install 'rewards-async[cli]'\n")
        raise SystemExit(2) from None
    app(prog_name="payouts")


if __name__ == "__main__":
    main()
