"""Rows that stay in their files: measured once, read, tokenized and packed when their turn comes."""
