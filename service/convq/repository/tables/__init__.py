"""Tables of a manifest that are a subject of their own. `convq.repository.manifest` puts the file together."""
