"""What a person runs: the `maia` command, one small module an experiment, and the report."""
