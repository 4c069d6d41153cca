"""The embedded scientist: plays the interpreter by fixed strategies, one module a task."""
