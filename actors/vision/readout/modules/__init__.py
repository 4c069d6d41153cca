"""What is known of single modules of a network: heads of attention, and what follows a layer."""
