"""The mesh on one machine: `up`, `run` and `demo`, with no cluster."""
