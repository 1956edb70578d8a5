"""An authoriser: who has one of our keys may pass, and the application is told who that is, not the key.

Speaks Envoy's ext_authz v3 over gRPC, on 127.0.0.1:$PORT. KEYS are `key=user` pairs, separated by commas; who is named
in ADMINS (commas as well) may see what is below /admin. A decision may be used again for $MAX_AGE seconds.
"""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy.service.auth.v3.external_auth_pb2_grpc import AuthorizationServicer, add_AuthorizationServicer_to_server

PORT = int(os.environ.get("PORT", "9191"))
KEYS = dict(pair.split("=", 1) for pair in os.environ.get("KEYS", "k-alice=alice,k-bob=bob").split(","))
ADMINS = set(os.environ.get("ADMINS", "alice").split(","))
MAX_AGE = int(os.environ.get("MAX_AGE", "10"))
UNAUTHENTICATED, PERMISSION_DENIED = 16, 7


def header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, value=value))


def denied(code: int, status: int, words: str, *headers: HeaderValueOption) -> CheckResponse:
    response = DeniedHttpResponse(status={"code": status}, headers=headers, body=words + "\n")
    return CheckResponse(status={"code": code, "message": words}, denied_response=response)


def decide(request: CheckRequest) -> CheckResponse:
    http = request.attributes.request.http
    user = KEYS.get(http.headers.get("x-api-key", ""))
    if user is None:
        return denied(UNAUTHENTICATED, 401, "which key?", header("www-authenticate", "ApiKey"))
    if http.path.split("?")[0].startswith("/admin") and user not in ADMINS:
        return denied(PERMISSION_DENIED, 403, f"{user} may not see that")
    told = OkHttpResponse(
        headers=[header("x-user", user)],
        headers_to_remove=["x-api-key"],
        response_headers_to_add=[header("x-seen-as", user)],
    )
    return CheckResponse(ok_response=told)


class Keys(AuthorizationServicer):
    """Says on stdout whom it was asked about."""

    def Check(self, request: CheckRequest, context: grpc.ServicerContext) -> CheckResponse:
        response = decide(request)
        http = request.attributes.request.http
        asker = request.attributes.source.principal or "somebody"
        print(f"{http.method} {http.path} by {asker}: {response.status.message or 'yes'}", flush=True)
        context.send_initial_metadata((("cache-control", f"max-age={MAX_AGE}"),))
        return response


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
    add_AuthorizationServicer_to_server(Keys(), server)
    if not server.add_insecure_port(f"127.0.0.1:{PORT}"):
        sys.exit(f"port {PORT} is taken")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(1))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
