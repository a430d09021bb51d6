"""The page where people compare responses: one SQLite file, a server on this machine, agreement, exchange."""
