"""Where events, outcomes and pending operations are kept."""
