// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const fs = require('fs');
const http = require('http');
const { Server } = require('socket.io');

const about = { pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION };
const server = http.createServer((request, response) => {
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(about));
});
const io = new Server(server);
io.on('connection', (socket) => socket.on('about', (answer) => answer(about)));
server.listen(process.env.PORT || 3000);

process.on('SIGTERM', () => {
  fs.appendFileSync(process.env.HOOKS, `${process.pid}\n`);
  io.close(() => process.exit(0));
});
