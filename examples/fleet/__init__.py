"""A fleet on one machine: PostgreSQL, nginx, listeners, services and payout workers, each a process."""
