"""From a network in PyTorch to a version of a model: the only room with torch, run in a process of its own and by no other."""
