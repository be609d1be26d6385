"""Rollouts are rows: task files to rollouts, and rollouts to training files, as queries over Parquet tables."""

__version__ = "0.1.0"
