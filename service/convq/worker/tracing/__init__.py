"""Spans of jobs for OpenTelemetry, made beside their way."""
