"""The browser that looks at the report looks at the documentation, too."""

from tests.experiments.report.conftest import browser, chromium

__all__ = ["browser", "chromium"]
