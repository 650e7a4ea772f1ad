"""Features to expression, with uncertainty, as AnnData and Parquet."""
