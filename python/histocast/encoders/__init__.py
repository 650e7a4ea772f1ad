"""Encoders as torch modules: cards of foundation models, morphology, nuclei, and their export to ONNX."""
