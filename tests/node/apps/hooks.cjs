// SPDX-License-Identifier: MIT OR Apache-2.0
// The clean-up hooks of the guides. HOOKS says which ("SIGTERM SIGINT message"); each run of one
// writes a line into the file `hooks`.
'use strict';
const fs = require('node:fs');
const http = require('node:http');

const server = http.createServer((request, response) => {
  const { APP_CLUSTER_GENERATION: generation } = process.env;
  response.end(JSON.stringify({ pid: process.pid, generation }));
});
server.listen(process.env.PORT);

const cleanUp = (why) => {
  fs.appendFileSync('hooks', `${process.pid} ${why}\n`);
  if (process.env.HOW === 'error') server.close((error) => process.exit(error ? 1 : 0));
  else server.close(() => process.exit(0));
};
for (const hook of process.env.HOOKS.split(' ')) {
  if (hook === 'message') {
    process.on('message', (message) => {
      if (message === 'shutdown') cleanUp('message');
    });
  } else {
    process.on(hook, () => cleanUp(hook));
  }
}
process.on('exit', (code) => fs.appendFileSync('exits', `${process.pid} ${code}\n`));
