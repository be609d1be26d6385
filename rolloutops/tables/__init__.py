"""A workspace on disk: its tables, journals, jobs and the log of commands."""
