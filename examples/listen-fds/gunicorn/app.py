# SPDX-License-Identifier: MIT OR Apache-2.0
import json
import os


def app(environ, start_response):
    body = json.dumps({
        "pid": os.getpid(),
        "slot": os.environ.get("APP_CLUSTER_SLOT"),
        "generation": os.environ.get("APP_CLUSTER_GENERATION"),
    }).encode()
    start_response("200 OK", [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
    ])
    return [body]
