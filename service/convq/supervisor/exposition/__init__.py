"""What the outside sees of a service: /metrics, /livez, /readyz."""
