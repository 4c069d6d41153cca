"""Run directories: their files, types, plans, leases; at a path or a URL."""
