"""Run directories: their files, types, plans, leases; at a path or a URL."""

MOST_REPEATS = 20
"""Studies of one unit at most."""
