"""histocast: spatial gene expression forecast from H&E whole-slide images."""

__version__ = "0.1.0"
