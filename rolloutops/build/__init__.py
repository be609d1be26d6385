"""Steps to training files: lines, linters, files, manifest, and the way back from a line to its task."""
