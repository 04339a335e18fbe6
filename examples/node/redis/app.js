// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const { RedisStore } = require('connect-redis');
const express = require('express');
const session = require('express-session');
const { createClient } = require('redis');

async function main() {
  const redis = createClient({ url: process.env.REDIS_URL });
  redis.on('error', (error) => console.error('Redis:', error.message));
  // Only then the worker listens, and counts as ready.
  await redis.connect();

  const app = express();
  app.use(session({
    store: new RedisStore({ client: redis }),
    secret: process.env.SESSION_SECRET,
    resave: false,
    saveUninitialized: false,
  }));

  // Whichever worker answers: the count is one, and so is the session.
  app.get('/increment', async (request, response) => {
    request.session.visits = (request.session.visits || 0) + 1;
    const count = await redis.incr('count');
    response.json({ count, visits: request.session.visits, pid: process.pid });
  });
  app.get('/count', async (request, response) => {
    const count = Number(await redis.get('count'));
    response.json({ count, visits: request.session.visits || 0, pid: process.pid });
  });

  const server = app.listen(process.env.PORT || 3000);
  process.on('SIGTERM', () => server.close(async () => {
    await redis.close();
    process.exit(0);
  }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
