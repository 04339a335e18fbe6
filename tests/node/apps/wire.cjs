// SPDX-License-Identifier: MIT OR Apache-2.0
// A worker that speaks on descriptor 3 by itself. It is started without NODE_CHANNEL_FD, so
// that Node leaves the descriptor alone. It says that it listens, and then does what its
// argument says, when the file `go` is there.
'use strict';
const fs = require('node:fs');

const write = (bytes) => {
  const buffer = Buffer.from(bytes);
  for (let at = 0; at < buffer.length; ) {
    try {
      at += fs.writeSync(3, buffer, at);
    } catch (error) {
      if (error.code === 'EPIPE' || error.code === 'ECONNRESET') process.exit(0);
      if (error.code !== 'EAGAIN') throw error;
    }
  }
};
const say = (value) => write(`${JSON.stringify(value)}\n`);
const sleep = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

const port = Number(process.env.PORT);
const query = { index: 0, data: null, address: null, port, addressType: 4, backlog: 511 };
say({ cmd: 'NODE_CLUSTER', act: 'online', seq: 0 });
say({ cmd: 'NODE_CLUSTER', act: 'queryServer', ...query, seq: 1 });
sleep(200);
say({ cmd: 'NODE_HANDLE_ACK' });
say({ cmd: 'NODE_CLUSTER', act: 'listening', ...query, seq: 2 });
while (!fs.existsSync('go')) sleep(10);

const acts = {
  garbage: () => write('\x00\xff garbage }{\n'),
  empty: () => write('\n'),
  binary: () => {
    for (let i = 0; i < 64; i++) write(Buffer.alloc(65536, i * 7));
  },
  deep: () => write(`${'['.repeat(1_000_000)}\n`),
  long: () => {
    write('{"long":"');
    const piece = Buffer.alloc(1_000_000, 'x');
    for (let i = 0; i < 100; i++) write(piece);
    write('"}\n');
  },
  many: () => {
    const thousand = '{"a":1}\n'.repeat(1000);
    for (let i = 0; i < 1000; i++) write(thousand);
  },
  queries: () => {
    for (let seq = 10; seq < 100_000; seq++) {
      say({ cmd: 'NODE_CLUSTER', act: 'queryServer', ...query, index: seq, port: 0, seq });
    }
  },
  // Each opened, acknowledged before it can have come, and closed again.
  closes: () => {
    for (let i = 0; i < 20_000; i++) {
      say({ cmd: 'NODE_CLUSTER', act: 'queryServer', ...query, index: i, port: null, fd: 3, seq: i });
      say({ cmd: 'NODE_HANDLE_ACK' });
      say({ cmd: 'NODE_CLUSTER', act: 'close', key: `null:null:4:3:${i}`, seq: i });
    }
  },
  said: () => write('"said."\n'.repeat(200_000)),
  ready: () => write('"ready"\n'.repeat(200_000)),
  // One may be for the question whether it is there, which status asks.
  ack: () => { for (let i = 0; i < 3; i++) say({ cmd: 'NODE_HANDLE_ACK' }); },
  nack: () => { for (let i = 0; i < 3; i++) say({ cmd: 'NODE_HANDLE_NACK' }); },
  unwrapped: () => say({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg: {} }),
  types: () => {
    say({ cmd: 'NODE_CLUSTER', act: 'queryServer', index: 'x', port: {}, address: 7, seq: [] });
    say({ cmd: 'NODE_CLUSTER', act: 'listening', port: -5, seq: -1 });
    say({ cmd: 'NODE_CLUSTER', ack: 1e300, accepted: 'maybe' });
    say({ cmd: 'NODE_CLUSTER', act: 'close', key: 12 });
    say({ cmd: 5 });
  },
  torn: () => write('{"cmd":"NODE_CLUSTER","act":"quer'),
  bytewise: () => {
    for (const byte of Buffer.from('{"whole":"ä😀"}\n{"whole":2}\n')) {
      write([byte]);
      sleep(1);
    }
  },
  silent: () => {},
};
acts[process.argv[2]]();
fs.writeFileSync('done', '');
if (process.argv[3] === 'die') process.exit(0);
for (;;) sleep(60_000);
