"""Endpoints as they are: a table of habits, a loopback server that has them, and what rolloutops makes of each."""
