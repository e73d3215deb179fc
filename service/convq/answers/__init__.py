"""From the raw outputs of a network to what people use: boxes, regions, keypoints, in pixels of the picture.

Pure functions of numpy arrays: a worker uses them, and so may a program that asked for raw outputs. Knows neither
onnxruntime nor Pillow nor Redis, reads no file and writes none; models and jobs come as plain descriptions.
"""
