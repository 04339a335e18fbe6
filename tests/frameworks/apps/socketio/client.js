// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
// node client.js '{"port":3000,"clients":8,"rounds":10,"options":{}}': real clients, each from an
// address of its own. One line of JSON for each thing that happens. With rounds a client ends after
// so many questions; without, it stays until standard input ends.
const http = require('http');
const { io } = require('socket.io-client');

const { port, clients, rounds, options } = JSON.parse(process.argv[2]);
const say = (client, event, more) => console.log(JSON.stringify({ client, event, ...more }));

async function ask(client, socket) {
  const pids = new Set();
  for (let round = 0; round < (rounds || 1); round += 1) {
    pids.add((await socket.timeout(15000).emitWithAck('about')).pid);
  }
  say(client, 'answered', { pids: [...pids], transport: socket.io.engine.transport.name });
  if (rounds) socket.disconnect();
}

for (let client = 0; client < clients; client += 1) {
  // A connection for each request of the polling, as browsers and proxies may have it.
  const agent = new http.Agent({ keepAlive: false, localAddress: `127.0.${client % 4}.${client + 11}` });
  const socket = io(`http://127.0.0.1:${port}`, { agent, forceNew: true, ...options });
  socket.on('connect', () => ask(client, socket).catch((error) => say(client, 'failed', { why: error.message })));
  socket.on('connect_error', (error) => say(client, 'failed', { why: error.message }));
  socket.on('disconnect', (why, details) => {
    const code = details && details.context && details.context.code;
    if (why !== 'io client disconnect') say(client, 'disconnected', { why, code });
  });
}
process.stdin.on('end', () => process.exit(0)).resume();
