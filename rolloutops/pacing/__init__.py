"""How fast, how long and for how much: concurrency, limits, budgets, prices, an endpoint's health."""
