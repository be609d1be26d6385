"""SQL steps: how they are read and checked, and the selections that they make."""
