"""An application: listens on $PORT, says what it was told, and starts a child of its own.

Its arguments: `deaf` ignores SIGTERM; a number is the exit status with which it fails at once.
"""

import os
import signal
import socket
import subprocess
import sys
import time

word = sys.argv[1] if len(sys.argv) > 1 else ""
if word.isdigit():
    print(f"failing with {word}", flush=True)
    sys.exit(int(word))
if word == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(f"child {child.pid}", flush=True)
print(f"proxy {os.environ['http_proxy']} workload {os.environ['CONDUIT_WORKLOAD']}", flush=True)
if "PORT" in os.environ:
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
    print("listening", flush=True)
while True:
    time.sleep(600)
