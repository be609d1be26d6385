"""Rows of rollouts made elsewhere: a module for each format, and `recognize`, which tries them in order.

A format is a module with `recognizes(row) -> bool` and `read(row, raw) -> RolloutRow` (see `row.py`), named in the list
of `recognize.py`. A row that no format knows is rejected; none is ever taken for another.
"""
