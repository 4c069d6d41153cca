"""One pass over a data set for all units of some layers, and the exemplars that it finds."""
