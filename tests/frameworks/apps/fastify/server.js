// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const fs = require('fs');
const fastify = require('fastify')();

fastify.get('/', async () => ({ pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION }));
fastify.addHook('onClose', async () => fs.appendFileSync(process.env.HOOKS, `${process.pid}\n`));
fastify.listen({ port: Number(process.env.PORT) || 3000, host: '127.0.0.1' }).catch((error) => {
  console.error(error);
  process.exit(1);
});
process.on('SIGTERM', () => fastify.close().then(() => process.exit(0)));
