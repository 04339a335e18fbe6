// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
// Tells what this process sees of us, and what its children and threads see.
const cluster = require('cluster');
const { isMainThread, parentPort, Worker } = require('worker_threads');
const { execFileSync, fork } = require('child_process');

function seen() {
  const { env } = process;
  return {
    options: env.NODE_OPTIONS || null,
    ours: Object.keys(env).filter((name) => /^(APP_CLUSTER_(FD|ID)|NODE_(CHANNEL|UNIQUE).*)$/.test(name)),
    worker: cluster.isWorker,
    patched: require('net').Server.prototype.listen.toString().includes('watch('),
    listeners: process.listenerCount('internalMessage'),
    loaded: Object.keys(require.cache).some((path) => path.includes('preload.cjs')),
    arguments: process.execArgv,
  };
}

if (!isMainThread) {
  parentPort.postMessage(seen());
} else if (process.argv[2] === 'child') {
  process.stdout.write(JSON.stringify(seen()));
} else if (process.argv[2] === 'fork') {
  process.send(seen());
  process.disconnect();
} else {
  const { connected, pid } = process;
  process.send({ event: 'app', id: cluster.worker.id, primary: cluster.isPrimary, connected, pid, ...seen() });
  process.send({ event: 'child', ...JSON.parse(execFileSync(process.execPath, [__filename, 'child']).toString()) });
  fork(__filename, ['fork']).on('message', (message) => process.send({ event: 'fork', ...message }));
  new Worker(__filename).on('message', (message) => process.send({ event: 'thread', ...message }));
}
