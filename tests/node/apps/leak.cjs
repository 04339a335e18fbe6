// SPDX-License-Identifier: MIT OR Apache-2.0
// An ordinary application that forgets nothing: LEAK KiB of each request stay.
'use strict';
const http = require('node:http');

const kept = [];
const about = () => JSON.stringify({ pid: process.pid, slot: Number(process.env.APP_CLUSTER_SLOT) });

http.createServer((request, response) => {
  kept.push(Buffer.alloc(Number(process.env.LEAK) * 1024, 1));
  const slow = /^\/slow\?ms=(\d+)/.exec(request.url);
  const answer = () => {
    const json = about();
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': json.length });
    response.end(json);
  };
  request.resume().on('end', () => setTimeout(answer, slow ? Number(slow[1]) : 0));
}).listen(process.env.PORT);
