"""Several studies of one unit: agreement, and one answer from all of them."""
