// SPDX-License-Identifier: MIT OR Apache-2.0
// TypeScript as Node runs it since 22.18.
import http from 'node:http';
import cluster from 'node:cluster';
import type { IncomingMessage, ServerResponse } from "node:http";

const { APP_CLUSTER_GENERATION: generation, PORT: port } = process.env;
http
  .createServer((request: IncomingMessage, response: ServerResponse) => {
    const { id } = cluster.worker ?? {};
    response.end(JSON.stringify({ pid: process.pid, generation, id, isWorker: cluster.isWorker }));
  })
  .listen(port);
