"""Studies that people start: one unit, whole layers, a search, a notebook session."""
