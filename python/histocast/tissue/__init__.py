"""Find tissue on a thumbnail and judge its quality."""
