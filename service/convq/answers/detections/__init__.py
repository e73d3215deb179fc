"""Detections: objects with boxes, scores and classes, and perhaps keypoints, mask weights or corners."""
