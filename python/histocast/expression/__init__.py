"""From features to expression: run the fusion graph, calibrate, and write AnnData and Parquet."""

from histocast.expression.predict import predict_expression

__all__ = ["predict_expression"]
