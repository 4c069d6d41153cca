"""One study of one unit: agent, observers, budget, replay."""
