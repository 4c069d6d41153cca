"""The browser that looks at the report looks at the documentation, too."""

from tests.experiments.browser import browser, chromium

__all__ = ["browser", "chromium"]
