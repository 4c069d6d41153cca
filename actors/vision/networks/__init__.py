"""Where networks under study come from: names, sources, checkpoints, preprocessing, class names."""
