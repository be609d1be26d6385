"""The parts of verification: a verdict, the judge that keeps limits, the pool of processes."""
