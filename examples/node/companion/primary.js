// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';

// What a primary kept: one count for all workers. A reload begins a new one; what is to
// outlive that belongs into a file or a database.
let requests = 0;
const bySlot = {};

// Where a primary had worker.on('message', ...). Slot and worker say who sent it.
process.on('message', ({ slot, worker, message }) => {
  switch (message.type) {
    case 'request':
      requests += 1;
      bySlot[slot] = (bySlot[slot] || 0) + 1;
      break;
    case 'getStats':
      // worker.send(...): to the worker that asked, even if another has its slot by now.
      process.send({ to: { worker }, message: { type: 'stats', id: message.id, requests, bySlot } });
      break;
    case 'broadcast':
      // for (const id in cluster.workers) cluster.workers[id].send(...)
      process.send({ to: 'all', message });
      break;
  }
});
