// SPDX-License-Identifier: MIT OR Apache-2.0
import cluster, { isPrimary } from 'node:cluster';
import http from 'node:http';

process.on('message', (message) => process.send({ event: 'echo', message }));
http.createServer((request, response) => response.end('{}')).listen(0, () => {
  process.send({ event: 'up', pid: process.pid, worker: cluster.isWorker, isPrimary, id: cluster.worker?.id,
    connected: process.connected, options: process.env.NODE_OPTIONS, fd: process.env.APP_CLUSTER_FD });
});
