"""What a service does once a second, whatever its workers do: renew leases, fence, announce, measure, and say what hinders it."""
