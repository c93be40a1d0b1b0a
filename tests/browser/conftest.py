"""A headless Chromium for the tests of pages; without one they are skipped, or fail where they must run.

`pip install playwright` brings what drives the browser. The browser is one that Playwright has installed, or that of
the system. The stage of CI that installs both sets PERFSIM_BROWSER=required.
"""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing(reason):
    """Skip, or fail where the tests must run."""
    if os.environ.get("PERFSIM_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def launch(playwright):
    """Start Playwright's own Chromium, or that of the system."""
    from playwright.sync_api import Error

    installed = filter(None, map(shutil.which, NAMES))
    reasons = []
    for path in (None, *installed):
        try:
            return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            reasons.append(str(error).splitlines()[0])
    return missing(f"no Chromium can be started: {'; '.join(reasons)}")


@pytest.fixture(scope="session")
def browser():
    """Give a headless Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install '.[browser]'")
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()
