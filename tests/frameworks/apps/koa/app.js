// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
const Koa = require('koa');

const app = new Koa();
app.use((context) => {
  context.body = { pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION };
});
// Nothing is said of signals: many apps do not.
app.listen(process.env.PORT || 3000);
