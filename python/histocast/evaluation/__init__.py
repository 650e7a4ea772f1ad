"""How good models are: metrics, controls, zero-shot genes, tables and the evaluation's page."""
