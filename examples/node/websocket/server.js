// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { WebSocketServer } = require('ws');

const page = fs.readFileSync(path.join(__dirname, 'page.html'));
const server = http.createServer((request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' }).end(page);
});

const webSockets = new WebSocketServer({ server });
webSockets.on('connection', (socket) => {
  socket.send(`you are with process ${process.pid}`);
  // Whoever is with this worker hears it; for those of the others it takes Redis or the like.
  socket.on('message', (data) => {
    for (const other of webSockets.clients) other.send(String(data));
  });
});

server.listen(process.env.PORT || 3000);
