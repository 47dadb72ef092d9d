"""Rows from files: lines, columns, checks."""
