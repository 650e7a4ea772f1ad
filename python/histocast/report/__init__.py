"""One sample's page, and the batch's summary."""
