// SPDX-License-Identifier: MIT OR Apache-2.0
// What a child or a thread of a worker finds.
'use strict';
const cluster = require('node:cluster');
const fs = require('node:fs');
const net = require('node:net');
const { parentPort } = require('node:worker_threads');

// Pipes that Node makes for its children are sockets too: only those past them count.
const sockets = fs.readdirSync('/proc/self/fd').filter((fd) => {
  try {
    return Number(fd) > 2 && fs.readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:');
  } catch {
    return false;
  }
}).length;
const told = {
  isPrimary: cluster.isPrimary,
  env: Object.keys(process.env).filter((k) => /^NODE_(CHANNEL|UNIQUE|OPTIONS|APP)|^APP_CLUSTER_(FD|ID)$/.test(k)).sort(),
  execArgv: process.execArgv,
  // Methods of Node itself come from its own files.
  patched: !/^(async )?(function|close|\()/.test(String(net.Server.prototype.close)) ||
    process.listenerCount('internalMessage') > (process.send ? 1 : 0),
  sockets,
};
if (parentPort) parentPort.postMessage(told);
else if (process.send) process.send(told);
else console.log(JSON.stringify(told));
