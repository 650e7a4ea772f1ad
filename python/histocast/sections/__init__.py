"""Measured data: readers of counts, published layouts, the training sheet, sections, labels and folds."""
