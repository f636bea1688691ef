"""Looking at a node and saying what is wrong with it: probes read files, everything else is pure."""
