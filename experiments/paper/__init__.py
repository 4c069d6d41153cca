"""The experiments of the MAIA paper: synthetic neurons, planted biases, robust features, evaluation,
judges.
"""
