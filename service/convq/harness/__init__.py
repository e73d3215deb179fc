"""What exercises a whole service: the load generator, the demonstration, the trial of faults."""
