"""From a graph that somebody brings to a model that can be served: looked into and tried in child processes with limits."""
