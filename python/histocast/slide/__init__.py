"""Open a slide, say what it is, read tiles of a physical size."""
