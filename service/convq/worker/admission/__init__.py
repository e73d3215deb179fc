"""The first half of a job's way in a worker: what may run, when, beside whom; decoded, prepared, batched."""
