"""Pending rollouts to attempts and verdicts, and where a workspace stands."""
