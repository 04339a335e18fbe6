// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const express = require('express');
const { Pool } = require('pg');

// PostgreSQL takes 100 connections (max_connections) for all workers together.
const workers = Number(process.env.WORKER_COUNT) || 1;
const pool = new Pool({ max: Math.min(5, Math.floor(100 / workers)) });
pool.on('error', (error) => console.error('database:', error.message));

const app = express();
app.get('/', async (request, response) => {
  const { rows } = await pool.query('SELECT pg_backend_pid() AS backend, pg_sleep(0.05)');
  response.json({ backend: rows[0].backend, pid: process.pid });
});
app.get('/pool', (request, response) => {
  response.json({ max: pool.options.max, open: pool.totalCount, workers, pid: process.pid });
});

const server = app.listen(process.env.PORT || 3000);
process.on('SIGTERM', () => server.close(async () => {
  await pool.end();
  process.exit(0);
}));
