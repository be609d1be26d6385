"""Conversations and rows: one form, whatever comes in or goes out."""
