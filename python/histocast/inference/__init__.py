"""Run the graphs of a bundle: in process, or on a server.

onnxruntime is loaded when a predictor is opened, not when this package is imported.
"""

from histocast.inference.connect import open_predictor, verify_bundle, verify_servers

__all__ = ["open_predictor", "verify_bundle", "verify_servers"]
