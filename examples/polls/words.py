"""The wording of the site, over HTTP/1.1 (Flask on Waitress). Two versions differ in tone.

Its receipts are deliberately unreliable: the printer jams, and `GET /receipt/...` answers 500.

Environment: PORT (default 8082), FAILURE_RATE (default 0.25: the share of receipts that fail), SEED (default 7).
"""

import argparse
import itertools
import os
import random
import signal
import sys

from flask import Flask, Response, jsonify
from waitress import create_server

TONES = {
    "v1": {
        "headlines": ["Please cast your vote.", "The polls are open.", "Your opinion is welcome."],
        "receipt": "Ballot {ballot} has been recorded.",
    },
    "v2": {
        "headlines": ["Vote now, it's quick!", "Have your say today!", "Every click counts!"],
        "receipt": "Hooray! Ballot {ballot} is in!",
    },
}


def make_app(version: str, failure_rate: float, rng: random.Random) -> Flask:
    """The service in the tone of `version`; `failure_rate` (0 to 1) of its receipts fail, as `rng` decides."""
    app = Flask("words")
    tone = TONES[version]
    headlines = itertools.cycle(tone["headlines"])

    @app.get("/headline")
    def headline() -> Response:
        return jsonify(text=next(headlines), version=version)

    @app.get("/receipt/<ballot>")
    def receipt(ballot: str) -> tuple[Response, int]:
        if rng.random() < failure_rate:
            return jsonify(error="the receipt printer is jammed", version=version), 500
        return jsonify(text=tone["receipt"].format(ballot=ballot), version=version), 200

    return app


def main() -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))
    options = argparse.ArgumentParser(description="The wording of the polls site.")
    options.add_argument("--version", choices=sorted(TONES), default="v1")
    version = options.parse_args().version
    rng = random.Random(int(os.environ.get("SEED", "7")))
    app = make_app(version, float(os.environ.get("FAILURE_RATE", "0.25")), rng)
    server = create_server(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8082")))
    print(f"words {version} listens on 127.0.0.1:{server.effective_port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
