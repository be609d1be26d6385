"""The command line: flags, help, and what each command says."""
