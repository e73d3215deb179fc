"""Model folders on disk: manifests, versions, files. Knows neither onnxruntime nor Pillow nor Redis."""
