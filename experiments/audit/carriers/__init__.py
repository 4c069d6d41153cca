"""Which units of a network carry the biases that an audit has found."""
