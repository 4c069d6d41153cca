"""The `maia` command: its subcommands and options."""
