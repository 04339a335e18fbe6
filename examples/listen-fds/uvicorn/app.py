# SPDX-License-Identifier: MIT OR Apache-2.0
import json
import os


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = json.dumps({
        "pid": os.getpid(),
        "slot": os.environ.get("APP_CLUSTER_SLOT"),
        "generation": os.environ.get("APP_CLUSTER_GENERATION"),
    }).encode()
    await send({
        "type": "http.response.start",
        "status": 200,
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
    })
    await send({"type": "http.response.body", "body": body})
