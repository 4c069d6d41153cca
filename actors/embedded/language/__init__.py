"""The words of the embedded models."""
