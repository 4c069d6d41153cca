"""What a whole run says of its units: search, comparison by meaning, and the atlas."""
