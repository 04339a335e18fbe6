// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const http = require('node:http');

const server = http.createServer((request, response) => {
  // Long enough to be in flight when the worker is told to go.
  setTimeout(() => response.end(JSON.stringify({ pid: process.pid })), 200);
});
server.listen(process.env.PORT || 3000);

function shutdown(why) {
  console.log(`${why}: cleaning up`);
  server.close(() => process.exit(0));
}

// One of these comes, once: which one the configuration says.
process.on('SIGTERM', () => shutdown('SIGTERM'));
process.on('SIGINT', () => shutdown('SIGINT'));
process.on('message', (message) => {
  if (message === 'shutdown') shutdown('message');
});
