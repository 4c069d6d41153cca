"""What the embedded scientist concludes from measurements: candidate labels, their merit, the next images."""
