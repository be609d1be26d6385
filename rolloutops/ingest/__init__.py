"""Files to rows and back: chunk, import, export."""
