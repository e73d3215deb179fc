"""The ends of a graph: what onnxruntime says of them, and what is done for graphs that are not [batch, ...] in and out."""
