"""Entry point of `webhook-listener` and `python -m webhooks`, which need the extra `cli`."""

from __future__ import annotations

from webhooks.early_signals import expect_signals

expect_signals()  # before anything that takes time


def main() -> None:
    """Run the command line; without its extra say which to install, with exit code 2."""
    from rewards_core.cli.entry import run_command_line  # noqa: PLC0415 - it takes time

    run_command_line("webhook-listener", "webhooks.cli")


if __name__ == "__main__":
    main()
