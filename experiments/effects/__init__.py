"""What units do to a network: its accuracy without some of them."""
