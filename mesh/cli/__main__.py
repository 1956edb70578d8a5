"""python -m mesh.cli: the conduit command, for the supervisor that starts proxies with the interpreter it runs with."""

import sys

from mesh.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
