// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const express = require('express');
const fs = require('fs');

const app = express();
app.get('/', (request, response) => {
  response.json({ pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION });
});
const server = app.listen(process.env.PORT || 3000);

process.on('SIGTERM', () => {
  fs.appendFileSync(process.env.HOOKS, `${process.pid}\n`);
  server.close(() => process.exit(0));
});
