"""Coefficients of the cost forms from measurements: a user's own, or public tables."""
