"""An audit's second part: the same contexts on the real images of a data set."""
