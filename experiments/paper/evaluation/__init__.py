"""How well labels predict their units: the protocol of the MAIA paper, and measures that it lacks."""
