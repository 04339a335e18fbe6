// SPDX-License-Identifier: MIT OR Apache-2.0
import { appendFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';

// As an app waits for its database.
await pause(50);

const server = createServer((request, response) => {
  const about = { pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION };
  response.setHeader('Content-Type', 'application/json').end(JSON.stringify(about));
});
await new Promise((resolve) => server.listen(process.env.PORT || 3000, resolve));

process.on('SIGTERM', () => {
  appendFileSync(process.env.HOOKS, `${process.pid}\n`);
  server.close(() => process.exit(0));
});
