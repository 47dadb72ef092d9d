"""Entry point of `payouts` and `python -m payouts`, which need the extra `cli`."""

from __future__ import annotations

import logging

from rewards_core.cli.entry import run_command_line


def main() -> None:
    """Run the command line; without its extra say which to install, with exit code 2."""
    # what it logs is advice to programmers; a request that was cut off is a row of the ledger, and the next run resumes it
    logging.getLogger("rewards_core.http.calls").addHandler(logging.NullHandler())
    run_command_line("payouts", "payouts.cli")


if __name__ == "__main__":
    main()
