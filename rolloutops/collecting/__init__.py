"""The parts of collection: what is owed, one attempt, the window of attempts in flight, batches."""
