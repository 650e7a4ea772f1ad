"""A small archive of synthetic slides whose expression follows their morphology."""
