"""Outputs that are an answer by themselves: maps of classes, mattes, depth, embeddings, text."""
