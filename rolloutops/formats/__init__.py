"""The one form of conversations and JSON, and what rows, requests and replies of other makes become in it."""
