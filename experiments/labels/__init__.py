"""Labels for all units of a network by embeddings: one pass over a data set, no agent."""
