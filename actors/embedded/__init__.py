"""The world without downloads: drawn scenes, a net that sees them, and stand-ins for language models."""
