"""The version of perfsim; the same stands in pyproject.toml, and a test compares them."""

__all__ = ["__version__"]

__version__ = "0.1.0"
