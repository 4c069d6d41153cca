"""From a configuration to a checked, ready workbench."""
