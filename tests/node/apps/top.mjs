// SPDX-License-Identifier: MIT OR Apache-2.0
// An ES module that waits before it listens.
import http from 'node:http';
import cluster from 'node:cluster';
import { setTimeout } from 'node:timers/promises';

await setTimeout(50);
const { APP_CLUSTER_GENERATION: generation, PORT: port } = process.env;
http
  .createServer((request, response) => {
    const { id } = cluster.worker ?? {};
    response.end(JSON.stringify({ pid: process.pid, generation, id, isWorker: cluster.isWorker }));
  })
  .listen(port);
