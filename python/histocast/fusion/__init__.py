"""The inputs of a fusion graph: which genes, the features of spots, lattice and regions."""
