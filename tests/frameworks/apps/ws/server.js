// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const fs = require('fs');
const http = require('http');
const { WebSocketServer } = require('ws');

const about = JSON.stringify({ pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION });
const server = http.createServer((request, response) => {
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(about);
});
const webSockets = new WebSocketServer({ server });
webSockets.on('connection', (socket) => {
  socket.send(about);
  socket.on('message', (data) => socket.send(String(data)));
});
server.listen(process.env.PORT || 3000);

process.on('SIGTERM', () => {
  fs.appendFileSync(process.env.HOOKS, `${process.pid}\n`);
  for (const client of webSockets.clients) client.close(1001);
  server.close(() => process.exit(0));
});
