"""What lies in deploy/ fits the program and the programs that read it."""
