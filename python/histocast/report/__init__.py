"""Pages people read: one per sample, one that accounts for every sample of a run, and one of a cohort."""
