// SPDX-License-Identifier: MIT OR Apache-2.0
// An unmodified app with a health route. What that answers stands in the file `health-SLOT`, else
// in HEALTH: a status, `hang`, `close` or `block`.
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const { APP_CLUSTER_SLOT: slot, HEALTH } = process.env;

function health() {
  try {
    return fs.readFileSync(`health-${slot}`, 'utf8').trim();
  } catch {
    return HEALTH ?? '200';
  }
}

http.createServer((request, response) => {
  if (request.url !== '/health') {
    response.end(JSON.stringify({ pid: process.pid, slot: Number(slot) }));
    return;
  }
  const { remoteAddress } = request.socket;
  if (remoteAddress !== '127.0.0.1' || request.headers.host !== 'localhost') {
    throw new Error(`asked by ${remoteAddress} for ${request.headers.host}`);
  }
  const answer = health();
  if (answer === 'hang') return;
  if (answer === 'close') {
    request.socket.destroy();
    return;
  }
  response.statusCode = Number(answer);
  response.end(JSON.stringify({ answer }));
}).listen(Number(process.env.PORT));
