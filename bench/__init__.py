"""Side-by-side benchmarks of conduit, Envoy, HAProxy and nghttpx: `python -m bench` (see `bench/__main__.py`)."""
