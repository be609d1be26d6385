"""Files that people give: task files and rollouts made elsewhere, row by row."""
