"""Many studies at once, spread over hosts."""
