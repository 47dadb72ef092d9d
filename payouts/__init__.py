"""A file of rewards in, every row settled exactly once, a report out."""
