// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
// A server that writes down what it is told over its channel.
const { appendFileSync } = require('fs');

process.on('message', (message) => {
  appendFileSync('/tmp/heard', `${JSON.stringify(message)}\n`);
});
require('http').createServer((request, response) => {
  request.resume().on('end', () => {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ pid: process.pid, slot: process.env.APP_CLUSTER_SLOT }));
  });
}).listen(3000);
