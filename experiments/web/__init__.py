"""Pages in the browser, served on the loopback address."""
