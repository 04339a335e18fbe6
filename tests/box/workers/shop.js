// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
// The app of releases.rs in JavaScript: an unmodified server. What is wrong with a
// release is in fault.js:
//   act, at   called so many milliseconds after it listens, between two requests
//   silent    it never listens
//   health    the status of GET /health
const http = require('http');
const fault = require('./fault');

if (!process.env.DATABASE_URL) {
  throw new Error('DATABASE_URL is not set');
}

let connections = 0;
const server = http.createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://localhost');
  const answer = () => {
    response.writeHead(pathname === '/health' ? fault.health || 200 : 200,
      { 'Content-Type': 'application/json' });
    response.end(JSON.stringify({
      pid: process.pid,
      slot: process.env.APP_CLUSTER_SLOT,
      generation: process.env.APP_CLUSTER_GENERATION,
    }));
  };
  const ms = pathname === '/slow' ? Number(searchParams.get('ms')) : 0;
  request.resume().on('end', () => (ms ? setTimeout(answer, ms) : answer()));
});
server.on('connection', (socket) => {
  connections += 1;
  socket.on('close', () => { connections -= 1; });
});

// Nobody can answer what a process has accepted when it dies: so it does that between
// two requests, and nothing may be lost.
const whenIdle = () => {
  if (connections > 0) setImmediate(whenIdle);
  else fault.act();
};

if (fault.silent) {
  setInterval(() => {}, 1000);
} else {
  server.listen(3000, () => {
    if (fault.act) setTimeout(whenIdle, fault.at);
  });
}
