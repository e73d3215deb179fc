"""Single operators of onnxruntime as functions of arrays, for what it does faster than numpy."""
