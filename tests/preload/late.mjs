// SPDX-License-Identifier: MIT OR Apache-2.0
import cluster, { isPrimary } from 'node:cluster';
import http from 'node:http';

// Nothing but the server that it asks for holds this process.
http.createServer((request, response) => response.end('{}')).listen(0, () => {
  process.on('message', (message) => process.send({ event: 'echo', message }));
  process.send({ event: 'up', pid: process.pid, worker: cluster.isWorker, isPrimary, id: cluster.worker?.id,
    connected: process.connected, options: process.env.NODE_OPTIONS, fd: process.env.APP_CLUSTER_FD });
});
