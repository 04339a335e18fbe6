// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
// The app of the tests. KIND says which server; it does what messages tell it, and tells what happens.
const http = require('http');
const net = require('net');
const { KIND = 'http', PORT = '0', TLS } = process.env;

const tell = (event, more) => process.send({ event, ...more });
const file = (name) => require('fs').readFileSync(`${TLS}/${name}.pem`);
const pem = () => ({ key: file('key'), cert: file('cert') });

function answer(request, response) {
  const { searchParams, pathname } = new URL(request.url, 'http://localhost');
  const ms = Number(searchParams.get('ms') || 0);
  let bytes = 0;
  const end = () => response.end(JSON.stringify({ pid: process.pid, bytes, path: pathname }));
  if (pathname === '/stream') {
    response.write(' ');
    tell('streaming');
    setTimeout(end, ms);
    return;
  }
  if (pathname === '/insists') response.setHeader('Connection', 'keep-alive');
  if (pathname === '/early') return void end();
  request.on('data', (chunk) => { bytes += chunk.length; });
  request.on('end', () => {
    if (pathname === '/slow') tell('asked');
    if (ms) setTimeout(end, ms);
    else end();
  });
}

const KINDS = {
  http: () => http.createServer(answer),
  https: () => require('https').createServer(pem(), answer),
  h2: () => require('http2').createSecureServer({ ...pem(), allowHTTP1: true }, answer),
  h2c: () => require('http2').createServer(answer),
  net: () => net.createServer((socket) => socket.pipe(socket)),
  ws() {
    const server = TLS ? require('https').createServer(pem(), answer) : http.createServer(answer);
    new (require('ws').WebSocketServer)({ server }).on('connection', (socket) => {
      // Frames all the time, of several writes each.
      const block = Buffer.alloc(100000, 'x');
      const more = () => { if (socket.readyState === 1) socket.send(block); };
      more();
      const timer = setInterval(more, 100);
      socket.on('close', (code) => { clearInterval(timer); tell('gone', { code }); });
    });
    return server;
  },
  io() {
    const server = http.createServer();
    new (require('socket.io').Server)(server).on('connection', (socket) => {
      tell('client');
      socket.on('disconnect', (reason) => tell('gone', { reason }));
    });
    return server;
  },
};

const server = KINDS[KIND]();
server.on('close', () => tell('close'));
server.listen(Number(PORT), () => tell('up'));

const DO = {
  close() {
    const result = server.close((error) => tell('closed', { error: error && error.code }));
    tell('closing', { listening: server.listening, same: result === undefined || result === server });
    if (server.closeIdleConnections) server.closeIdleConnections();
  },
  state: () => tell('state', { listening: server.listening, address: server.address() }),
  another() {
    const other = http.createServer(answer).listen(0, () => tell('another', { address: other.address() }));
  },
};
process.on('message', (message) => message && DO[message.do] && DO[message.do]());
if (process.env.ON_TERM === 'close') {
  process.on('SIGTERM', () => {
    tell('term');
    server.close((error) => {
      tell('closed', { error: error && error.code });
      setImmediate(() => process.exit(error ? 1 : 0));
    });
  });
}
