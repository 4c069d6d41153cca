"""What dies, and what a run makes of it."""
