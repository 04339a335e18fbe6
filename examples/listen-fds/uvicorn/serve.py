# SPDX-License-Identifier: MIT OR Apache-2.0
"""uvicorn that loses nothing when it is asked to stop.

On SIGTERM uvicorn closes connections whose request it has not read yet. Here
it first stops accepting, then reads what it has accepted, then shuts down.
Needs asyncio's own event loop: uvloop does not let go of its sockets.
"""
import asyncio

import uvicorn


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
        # A client sends its request at once; a few turns of the loop would do
        # on the same machine, this is for those that are far away.
        await asyncio.sleep(0.5)
        await super().shutdown(sockets)


Server(uvicorn.Config("app:app", fd=3, loop="asyncio")).run()
