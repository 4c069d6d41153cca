"""Findings of an audit as they are shown."""
