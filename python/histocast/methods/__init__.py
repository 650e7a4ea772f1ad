"""Encoders and fusion methods as torch modules."""
