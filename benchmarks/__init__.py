"""What the package reaches on real text, and how it stands against others: see README.md."""
