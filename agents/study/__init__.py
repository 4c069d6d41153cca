"""One study of one unit: interpreter, observers, budget, replay."""
