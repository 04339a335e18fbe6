// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const fs = require('fs');
const Hapi = require('@hapi/hapi');

async function main() {
  const server = Hapi.server({ port: process.env.PORT || 3000, host: 'localhost' });
  server.route({
    method: 'GET',
    path: '/',
    handler: () => ({ pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION }),
  });
  await server.start();
  process.on('SIGTERM', async () => {
    fs.appendFileSync(process.env.HOOKS, `${process.pid}\n`);
    await server.stop({ timeout: 10000 });
    process.exit(0);
  });
}
main();
