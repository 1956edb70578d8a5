"""`conduit`, on a machine whose clock is set a day ahead and back again, over and over."""

import itertools
import sys
import threading
import time

DAY = 86_400.0
really, tell = time.time, time.time_ns
ahead = itertools.cycle((DAY, -DAY, 0.0, 365 * DAY))
offset = 0.0


def jump(stop: threading.Event) -> None:
    """Every tenth of a second."""
    global offset
    while not stop.wait(0.1):
        offset = next(ahead)
    print("jumped", flush=True)


if __name__ == "__main__":
    time.time = lambda: really() + offset
    time.time_ns = lambda: tell() + int(offset * 1e9)
    from mesh.cli.main import main

    stop = threading.Event()
    thread = threading.Thread(target=jump, args=(stop,))
    print("jumped", flush=True)
    thread.start()
    try:
        status = main()
    finally:
        stop.set()
        thread.join()
    sys.exit(status)
