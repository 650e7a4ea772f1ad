"""Training sets, folds, fitting, evaluation and export."""
