"""Build what the package ships as data: sprites, weights, word lists."""
