"""Whether a graph finds objects, and as what: its outputs held against the families that are known, by shapes and on noise."""
