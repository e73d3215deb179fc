"""Redis looked at from outside, for people: what stands in it, who is in trouble, what would mend it."""
