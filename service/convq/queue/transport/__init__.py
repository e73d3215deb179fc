"""How Redis is reached: addresses, connections, and the ways commands travel."""
