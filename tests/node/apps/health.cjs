// SPDX-License-Identifier: MIT OR Apache-2.0
// An unmodified app with a health route. What that answers stands in the file `health-SLOT`, else
// in HEALTH: a status, `hang`, `close`, or one of the odd ones below.
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

const filler = Buffer.alloc(64 * 1024, 'x');
const pump = (socket) => {
  while (!socket.destroyed && socket.write(filler));
  socket.once('drain', () => pump(socket));
};
const odd = {
  endless: (socket) => {
    socket.write('HTTP/1.1 ');
    pump(socket);
  },
  drip: (socket) => {
    const text = 'HTTP/1.1 200 OK\r\n';
    let n = 0;
    setInterval(() => n < text.length && socket.write(text[n++]), 100).unref();
  },
  smtp: (socket) => socket.end('220 mail.example ESMTP\r\n'),
  'stays open': (socket) => socket.write('HTTP/1.1 200 OK\r\n\r\n'),
  huge: (socket) => {
    socket.write('HTTP/1.1 200 OK\r\n\r\n');
    pump(socket);
  },
  early: (socket, response) => {
    response.writeContinue();
    response.writeProcessing();
    response.end('fine');
  },
};

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
  if (odd[answer]) {
    request.socket.on('error', () => {});
    odd[answer](request.socket, response);
    return;
  }
  response.statusCode = Number(answer);
  response.end(JSON.stringify({ answer }));
}).listen(Number(process.env.PORT));
