"""Scenes: drawn images with known content, their vocabulary and their data set."""
