"""SQLite files that all processes of one host read and write."""
