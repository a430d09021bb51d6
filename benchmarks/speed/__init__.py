"""Ours and others in turn on the same models, rows and settings."""
