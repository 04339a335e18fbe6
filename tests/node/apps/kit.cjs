// SPDX-License-Identifier: MIT OR Apache-2.0
// An ordinary application that the tests can ask to do things: POST /eval runs the body as an
// async function and answers with what it returns.
'use strict';
const http = require('node:http');
const cluster = require('node:cluster');

const AsyncFunction = (async () => {}).constructor;
const seen = [];
const kept = {};
process.on('message', (message) => seen.push(message));

// Listens like that; resolves to the address, or to the code of the error.
const listen = (server, ...args) =>
  new Promise((resolve) => {
    server.once('error', (error) => resolve({ code: error.code }));
    server.listen(...args, () => resolve({ at: server.address() }));
  });

const about = () => ({
  pid: process.pid,
  slot: Number(process.env.APP_CLUSTER_SLOT),
  generation: Number(process.env.APP_CLUSTER_GENERATION),
  version: process.version,
  id: cluster.worker && cluster.worker.id,
  isWorker: cluster.isWorker,
});

const body = async (request) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
};

const app = async (request, response) => {
  const url = new URL(request.url, 'http://a');
  const text = await body(request);
  let answer = about();
  if (url.pathname === '/slow') {
    await new Promise((done) => setTimeout(done, Number(url.searchParams.get('ms'))));
  } else if (url.pathname === '/eval') {
    try {
      const run = new AsyncFunction('require', 'seen', 'kept', 'listen', 'server', 'app', text);
      answer = await run(require, seen, kept, listen, server, app);
    } catch (error) {
      answer = { thrown: String(error.stack) };
    }
  }
  const json = JSON.stringify(answer === undefined ? null : answer);
  response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(json) });
  response.end(json);
};

const server = http.createServer(app);
if (process.env.MAX_CONNECTIONS) server.maxConnections = Number(process.env.MAX_CONNECTIONS);
const [how] = process.argv.slice(2);
const ready = () => {
  if (process.env.SAY_READY) setTimeout(() => process.send('ready'), Number(process.env.SAY_READY));
};
if (how) server.listen(JSON.parse(how), ready);
else server.listen(process.env.PORT, ready);
