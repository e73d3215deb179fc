"""What passes between the supervisor and its workers: messages, plans, numbers in shared memory."""
