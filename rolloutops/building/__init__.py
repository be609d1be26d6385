"""Training files: how they are written, with lineage and manifest."""
