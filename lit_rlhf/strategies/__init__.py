"""How networks are spread over ranks."""
