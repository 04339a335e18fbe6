// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
// The app of fate.rs: an unmodified server. GET /slow?ms=N is a download that takes so
// long; a WebSocket is told who serves it, and then what it has said.
const crypto = require('crypto');
const http = require('http');

const who = JSON.stringify({
  pid: process.pid,
  slot: process.env.APP_CLUSTER_SLOT,
  generation: process.env.APP_CLUSTER_GENERATION,
});

const server = http.createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://localhost');
  let pieces = pathname === '/slow' ? Number(searchParams.get('ms')) / 50 : 0;
  response.writeHead(200, { 'Content-Type': 'application/json' });
  const go = () => {
    if (pieces-- <= 0) return response.end(who);
    // White space belongs to JSON.
    response.write(' '.repeat(4096));
    setTimeout(go, 50);
  };
  request.resume().on('end', go);
});

server.on('upgrade', (request, socket, head) => {
  const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  const accept = crypto.createHash('sha1').update(key).digest('base64');
  const say = (text) => {
    socket.write(Buffer.concat([Buffer.from([0x81, text.length]), Buffer.from(text)]));
  };
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n' +
    `Connection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
  say(who);
  let bytes = head;
  socket.on('data', (more) => {
    bytes = Buffer.concat([bytes, more]);
    // Short frames, masked with zeros.
    while (bytes.length >= 6 && bytes.length >= 6 + (bytes[1] & 0x7f)) {
      const end = 6 + (bytes[1] & 0x7f);
      say(bytes.toString('utf8', 6, end));
      bytes = bytes.subarray(end);
    }
  });
  socket.on('error', () => {});
});

server.listen(3000);
