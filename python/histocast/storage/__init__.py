"""Slides and tables where they lie: local files and S3 objects."""
