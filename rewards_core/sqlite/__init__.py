"""SQLite files that any number of processes of one host may read and write."""
