// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const http = require('node:http');

let news = null;
const asked = new Map();
let next = 0;

process.on('message', (message) => {
  if (message.type === 'broadcast') news = message.text;
  if (message.type === 'stats') asked.get(message.id)?.(message);
});

// The numbers of all workers, or null if there is no answer, as while the companion is replaced.
function getStats() {
  const id = `${process.pid}-${next++}`;
  return new Promise((resolve) => {
    const late = setTimeout(() => resolve(null), 1000);
    asked.set(id, (stats) => { clearTimeout(late); resolve(stats); });
    process.send({ type: 'getStats', id });
  }).finally(() => asked.delete(id));
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://localhost');
  let body = { pid: process.pid, slot: Number(process.env.APP_CLUSTER_SLOT), news };
  if (url.pathname === '/stats') {
    body = await getStats();
  } else {
    process.send({ type: 'request', path: url.pathname });
  }
  if (url.pathname === '/broadcast') {
    process.send({ type: 'broadcast', text: url.searchParams.get('text') });
  }
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify(body));
});

server.listen(process.env.PORT || 3000);
