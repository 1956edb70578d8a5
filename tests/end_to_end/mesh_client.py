"""An ordinary client: makes the requests of its argument, [[method, path, how often], ...], to http://HOST and prints
[[method, path, status], ...]. That it goes through a proxy is urllib's doing, by the environment."""

import json
import sys
import urllib.error
import urllib.request


def status_of(url: str, method: str) -> int:
    """One request; a POST has a body, which must come back."""
    body = b"words " * 100 if method == "POST" else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=30) as answer:
            assert body in (None, answer.read())
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


if __name__ == "__main__":
    host, plan = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps([[m, p, status_of(f"http://{host}{p}", m)] for m, p, count in plan for _ in range(count)]))
