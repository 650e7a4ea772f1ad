"""From features to expression: run the fusion graph, calibrate, and write AnnData and Parquet."""
