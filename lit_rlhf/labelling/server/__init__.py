"""The page's server: a Starlette application, who may use it, and what it tells a browser."""
