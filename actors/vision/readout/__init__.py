"""Units, and how their activations are read off a forward pass and kept."""
