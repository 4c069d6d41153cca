"""The commands of `maia`, one thin function each; each imports what it runs when it runs."""
