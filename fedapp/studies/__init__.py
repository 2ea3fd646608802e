"""Studies over many runs: the matrix of rules and learners, ablations."""
