"""The grpcio server of grpc_server.py as a program on $PORT. Run it with -m from the top of the checkout."""

import os
from concurrent.futures import ThreadPoolExecutor

import grpc

from tests.end_to_end.grpc_server import OPTIONS, Methods

if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Methods()], options=OPTIONS)
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    server.start()
    server.wait_for_termination()
