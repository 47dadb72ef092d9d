"""Entry point of `webhook-listener` and `python -m webhooks`, which need the extra `cli`."""

from __future__ import annotations

from rewards_core.cli.entry import run_command_line


def main() -> None:
    """Run the command line; without its extra say which to install, with exit code 2."""
    run_command_line("webhook-listener", "webhooks.cli")


if __name__ == "__main__":
    main()
