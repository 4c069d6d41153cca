"""The small network that knows which things a drawn image shows."""
