"""How right a model is on the user's own pictures: which there are, what the model says of each, and the sums of it.

`dataset` and `classes` read what is true, `local` and `served` ask the model, `tally` counts.
"""
