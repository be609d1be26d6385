"""One file a command: its flags, what it does, and what it says. Heavy packages are imported when a command runs."""
