"""The page: everything about a result or a comparison in one file that opens without a network."""

from perfsim.study.page.write import write_page

__all__ = ["write_page"]
