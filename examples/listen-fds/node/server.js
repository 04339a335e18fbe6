// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const http = require('http');

const server = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify({
    pid: process.pid,
    slot: process.env.APP_CLUSTER_SLOT,
    generation: process.env.APP_CLUSTER_GENERATION,
  }));
});

// The first socket that app-cluster passes.
server.listen({ fd: 3 });

// Finish what has begun; Node exits when nothing is left to do.
process.on('SIGTERM', () => server.close());
