"""Somebody else's operator graph: what its labels say, and which of the five checks that decides."""
