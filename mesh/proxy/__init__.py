"""The data plane: the sidecar that carries every byte between two services."""
