"""What a run does with its rows: plan, send, settle."""
