"""Reading finished and running runs: status, lookup, comparison, export."""
