// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
// Clients that are not worth writing in Rust. Each line that it writes is JSON; the first is "ready".
const [kind, port, count = '1'] = process.argv.slice(2);
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
process.removeAllListeners('warning');
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const KINDS = {
  ws: () => sockets('ws:'),
  wss: () => sockets('wss:'),
  io() {
    const options = { transports: ['websocket'], reconnection: false };
    const socket = require('socket.io-client').io(`http://127.0.0.1:${port}`, options);
    socket.on('connect', () => say('ready'));
    socket.on('disconnect', (reason) => say({ reason }));
  },
  h2: () => streams(`https://127.0.0.1:${port}`),
  h2c: () => streams(`http://127.0.0.1:${port}`),
  https: () => tls(),
};

function sockets(scheme) {
  const { WebSocket } = require('ws');
  let open = 0;
  for (let i = 0; i < Number(count); i++) {
    const socket = new WebSocket(`${scheme}//127.0.0.1:${port}`);
    let bytes = 0;
    socket.on('open', () => { if (++open === Number(count)) say('ready'); });
    socket.on('message', (data) => { bytes += data.length; });
    socket.on('error', (error) => say({ error: error.message }));
    socket.on('close', (code) => say({ code, bytes, at: Date.now() }));
  }
}

// A stream that is under way, and new ones for as long as the session takes them.
function streams(url) {
  const session = require('http2').connect(url, { rejectUnauthorized: false });
  let left = 1;
  const ask = (path) => new Promise((resolve) => {
    const stream = session.request({ ':path': path });
    let text = '';
    stream.setEncoding('utf8').on('data', (data) => { text += data; });
    stream.on('error', (error) => { text = error.message; });
    stream.on('close', () => resolve(text));
  });
  session.on('goaway', (code) => say({ goaway: code }));
  session.on('error', (error) => say({ error: error.message }));
  session.on('close', () => { left = 0; say('closed'); });
  session.on('connect', async () => {
    ask('/slow?ms=700').then((text) => say({ slow: text }));
    say('ready');
    while (left && !session.closed && !session.destroyed) {
      const text = await ask('/');
      // Refused means that the server has not taken it and that it may be sent elsewhere.
      if (!text.startsWith('{') && !text.includes('REFUSED')) say({ lost: text });
    }
  });
}

// Kept-alive requests one after the other, and a connection that never sends one.
function tls() {
  const https = require('https');
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
  const idle = require('tls').connect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () => go());
  idle.on('end', () => say('idle ended')).on('error', (error) => say({ error: error.message })).resume();
  const go = (first = true) => {
    const request = https.get({ port, host: '127.0.0.1', agent, path: '/' }, (response) => {
      response.resume().on('end', () => {
        if (first) say('ready');
        if (response.headers.connection === 'close') say('last');
        else setTimeout(go, 3, false);
      });
    });
    request.on('error', (error) => say({ lost: error.message }));
  };
}

KINDS[kind]();
