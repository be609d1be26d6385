"""Golden tests of steps: rows that are given, and what a step must make of them."""
