"""Fusion networks as torch modules: layers, trunk, one file per method, baselines, losses, and their export to ONNX."""
