"""Edits of images by instruction."""
