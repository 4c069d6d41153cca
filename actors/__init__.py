"""Where models live: Ray actors, request coalescing, replicas, and the model backends.

This package knows nothing of agents, prompts or experiments.
"""
