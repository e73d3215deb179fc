"""What exporters write beside a graph of their own accord: names of classes, sizes, tasks. Strangers' text, all of it."""
