"""Parts of a unit's page."""
