"""Networks with known truth, made for the experiments."""
