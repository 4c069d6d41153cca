"""What needs gradients of a network under study: feature visualizations and attributions."""
