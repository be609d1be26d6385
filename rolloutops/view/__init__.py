"""The viewer: a small local server over the views of one workspace, and its pages. Nothing comes from elsewhere."""
