// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const cluster = require('node:cluster');
const express = require('express');

const app = express();

app.get('/', (request, response) => {
  response.json({ pid: process.pid, worker: cluster.worker && cluster.worker.id });
});

// An answer that takes a moment, as from a database.
app.get('/slow', (request, response) => {
  setTimeout(() => response.json({ pid: process.pid }), 50);
});

app.listen(process.env.PORT || 3000);
