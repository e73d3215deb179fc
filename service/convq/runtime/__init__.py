"""The process: time, signals, numbers. Joins the queue and the inference, which do not know each other."""
