"""The machinery of the experiments: specifications, the command line, runs, sweeps, tables."""
