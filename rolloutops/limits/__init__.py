"""How fast, how many at once and for how much: rate limits, concurrency, spend limits, and progress."""
