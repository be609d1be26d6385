"""A workspace on disk: the schema of its tables, the views over them, journals, runs and batch jobs."""
