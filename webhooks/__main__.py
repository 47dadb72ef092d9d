"""Entry point of `webhook-listener` and `python -m webhooks`, which need the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without its extra say which to install, with exit code 2."""
    try:
        from webhooks.cli import app  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as problem:
        if problem.name not in {"typer", "rich"}:
            raise
        sys.stderr.write(f"webhook-listener needs {problem.name}: pip install 'rewards-async[cli]'\n")
        raise SystemExit(2) from None
    app(prog_name="webhook-listener")


if __name__ == "__main__":
    main()
