"""Exported files as files: reading and sealing them, and saying what is in them. Needs onnx, not torch."""
