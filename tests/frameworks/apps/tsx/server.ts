// SPDX-License-Identifier: MIT OR Apache-2.0
import { appendFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';

// Node's own removal of types would not take it.
enum Header {
  Type = 'Content-Type',
}

function about(response: ServerResponse): void {
  const text: string = JSON.stringify({ pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION });
  response.setHeader(Header.Type, 'application/json').end(text);
}

const server = createServer((_request, response) => about(response));
server.listen(process.env.PORT || 3000);

process.on('SIGTERM', () => {
  appendFileSync(process.env.HOOKS as string, `${process.pid}\n`);
  server.close(() => process.exit(0));
});
