"""What a manifest says of answers, held against the graph, and the answers made by it: `convq.answers` at work."""
