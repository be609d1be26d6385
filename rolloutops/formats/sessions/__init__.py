"""Session files of coding agents: one module a format, each with `recognizes` and `read`."""
