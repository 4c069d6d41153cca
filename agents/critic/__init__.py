"""The critic: tests of a label on images that its agent did not choose."""
