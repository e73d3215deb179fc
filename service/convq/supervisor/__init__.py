"""The process above the workers: starts, watches and replaces them, keeps their leases, answers probes."""
