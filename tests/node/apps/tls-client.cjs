// SPDX-License-Identifier: MIT OR Apache-2.0
// Takes a TLS session of one worker and uses it until another has taken it up.
'use strict';
const tls = require('node:tls');

const ask = (session) =>
  new Promise((resolve, reject) => {
    const port = Number(process.argv[2]);
    const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, session });
    let ticket;
    let answer = '';
    socket.on('session', (value) => (ticket = value));
    socket.on('error', reject);
    socket.on('data', (data) => (answer += data));
    socket.on('end', () => {
      const pid = answer.split('\r\n\r\n')[1];
      resolve({ pid, ticket, resumed: socket.isSessionReused() });
    });
    socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
  });

(async () => {
  const first = await ask();
  for (let i = 0; i < 500; i++) {
    const next = await ask(first.ticket);
    if (!next.resumed) return console.log(`not resumed by ${next.pid === first.pid ? 'itself' : 'another'}`);
    if (next.pid !== first.pid) return console.log('resumed by another');
  }
  console.log('only one worker answers');
})();
