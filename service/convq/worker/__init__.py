"""One worker process: the life of a job between Redis and the network."""
