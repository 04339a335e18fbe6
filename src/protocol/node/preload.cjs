// SPDX-License-Identifier: MIT OR Apache-2.0
'use strict';
// Loaded by NODE_OPTIONS into the workers of app-cluster. It adds what the node:cluster protocol lacks:
// a drain that loses no request of a kept-alive connection, the channel behind npm, tsx and the like, and
// figures of the event loop. It speaks over the cluster channel in messages that the app does not see.
// Node 10 must be able to parse it; before 18 it does nothing.
//
// What the app could notice: some methods of net.Server and http.Server have another source text, there
// is a listener for 'connection' on HTTP servers, for 'close' on their connections and for
// 'internalMessage' on process, and worker threads load this file too (it returns at once).

const MESSAGE = 'NODE_APP_CLUSTER';
/** For what the app closes by itself, if no drain has said how long is quiet (ms). */
const QUIET = 1000;
/** Longest wait for a signal that was sent before a message that came (ms). */
const LATE = 2000;
/** A client has so long to answer the close of its WebSocket (ms), if the drain has: it may be slow to read up to it. */
const ANSWER = 5000;
/** Programs that run the app in another process and have to leave the channel to it: by name, or by package. */
const MANAGERS = /^(npm|npx|pnpm|pnpx|yarn|yarnpkg|corepack)(-cli|-[\d.]+)?(\.[cm]?js)?$/;
const LAUNCHERS = new Set(['npm', 'pnpm', 'yarn', 'corepack', 'tsx', 'cross-env', 'nodemon', 'npm-run-all',
  'npm-run-all2', 'concurrently', 'dotenv-cli', 'env-cmd', '@dotenvx/dotenvx', '@nestjs/cli', 'ts-node-dev',
  'node-dev', 'turbo', 'lerna']);

function isLauncher() {
  let path = process.argv[1] || '';
  try { path = require('fs').realpathSync(path); } catch { /* then as it was typed */ }
  const parts = path.split('/');
  const [first, second] = parts.slice(parts.lastIndexOf('node_modules') + 1);
  return MANAGERS.test(parts[parts.length - 1]) || LAUNCHERS.has(first) || LAUNCHERS.has(`${first}/${second}`);
}

/** Takes ourselves out of the environment: neither the app nor its children are to see it. */
function cleanEnvironment() {
  const { env } = process;
  for (const name of ['APP_CLUSTER_FD', 'APP_CLUSTER_ID']) delete env[name];
  if (env.NODE_OPTIONS === undefined) return;
  const ours = (path) => {
    try { return require('fs').realpathSync(path) === __filename; } catch { return path === __filename; }
  };
  const rest = env.NODE_OPTIONS.replace(/ ?--require[ =](?:"((?:[^"\\]|\\.)*)"|([^\s"]+))/g,
    (whole, quoted, bare) => (ours(quoted === undefined ? bare : quoted.replace(/\\(.)/g, '$1')) ? '' : whole));
  if (rest.trim() === '') delete env.NODE_OPTIONS;
  else if (rest !== env.NODE_OPTIONS) env.NODE_OPTIONS = rest;
}

/**
 * Makes this process a cluster worker on the channel `fd`, as Node does by itself when it finds
 * NODE_CHANNEL_FD. Node has no means to set FD_CLOEXEC, so that the app's own children inherit `fd`.
 */
function attach(fd, id) {
  if (!require('fs').fstatSync(fd).isSocket()) return;
  const holders = () => process.listenerCount('message') + process.listenerCount('disconnect');
  const before = holders();
  // The module that is loaded first by this name decides on worker or primary.
  process.env.NODE_UNIQUE_ID = id;
  try {
    const cluster = require('cluster');
    if (!cluster.isWorker || typeof cluster._setupWorker !== 'function') return;
    require('child_process')._forkChild(fd, 'json');
    cluster._setupWorker();
  } finally {
    delete process.env.NODE_UNIQUE_ID;
  }
  // Node's own listeners do not hold this process, unlike a worker's, until it listens: it may be a step
  // of the start script that ends by itself ("tsc && node app.js"), and the next one attaches again.
  unheld = holders() - before;
  for (let count = unheld; count > 0; count--) process.channel.unrefCounted();
}

/** Replaces a method by what `make` makes of it; name, length and flags stay. */
function replace(object, name, make) {
  const original = object[name];
  if (typeof original !== 'function') return;
  const value = make(original);
  for (const key of ['name', 'length']) Object.defineProperty(value, key, { value: original[key] });
  const usual = { writable: true, configurable: true, enumerable: true };
  Object.defineProperty(object, name, { ...usual, ...Object.getOwnPropertyDescriptor(object, name), value });
}

/** WeakRefs of the servers that have ever listened. */
const servers = new Set();
/** Those, and the prototypes that have our close(). */
const watched = new WeakSet();
/** Servers that are being closed, and after how many ms their connections are quiet. */
const retiring = new Map();
/** Open sockets and HTTP/2 sessions of HTTP servers; with TLS also the sockets below it. */
const open = new Set();
/** What was seen of a connection at the last look: since when quiet, bytes, and when a WebSocket is to go. */
let seen = new WeakMap();
/** The drain that was asked for: {quiet, within, spread, since} in ms. */
let plan = null;
/** Signals that have come since. */
const heard = new Set();
let said = false;
/** How many holds on the channel a late worker owes. */
let unheld = 0;
let storing = false;
let timer;
let utilization;
/** As they were at the start: the app may put others there. */
let send, performance;

// The callback takes the error that would else be an 'error' event of `process`.
const say = (act, more) => process.connected
  && send.call(process, { cmd: MESSAGE, act, ...more }, undefined, {}, () => {});

/** Nothing of ours may end the app. */
const quietly = (work) => (...args) => { try { return work(...args); } catch { return undefined; } };
const isHttp = (server) => typeof server.closeIdleConnections === 'function';
const isHttp2 = (server) => typeof server.updateSettings === 'function';
const isTls = (server) => typeof server.setSecureContext === 'function';
const isSession = (connection) => typeof connection.goaway === 'function';
/** `socket` of an HTTP/2 session is a proxy, and undefined in the end. */
const serverOf = (connection) => (isSession(connection) ? connection.socket || {} : connection).server;

function* live() {
  for (const ref of servers) {
    const server = ref.deref();
    if (server) yield server;
    else servers.delete(ref);
  }
}

function track(connection) {
  if (open.has(connection) || connection.destroyed) return;
  open.add(connection);
  connection.once('close', function forget() { open.delete(this); });
  if (isSession(connection) && retiring.has(serverOf(connection))) giveNotice(connection);
}

const watch = quietly((server) => {
  // What listens is an app: it waits for the answer, and for what comes.
  for (; unheld > 0; unheld--) process.channel.refCounted();
  if (watched.has(server)) return;
  watched.add(server);
  servers.add(new WeakRef(server));
  if (!isHttp(server) && !isHttp2(server)) return;
  // http.Server and https.Server have these of their own; the latter need not be loaded for us.
  for (let type = server; (type = Object.getPrototypeOf(type)) !== null;) {
    if (!Object.hasOwn(type, 'closeIdleConnections') || watched.has(type)) continue;
    watched.add(type);
    replace(type, 'close', close);
    replace(type, 'closeIdleConnections', closeIdleConnections);
  }
  if (isTls(server)) server.on('secureConnection', track);
  server.on('connection', track);
  if (isHttp2(server)) server.on('session', track);
});

/**
 * What stands for a listening handle that is closed already. To the app its server still listens, until
 * it closes it: then the callback is called, and 'close' emitted, as if nothing had been before.
 */
function standIn(address) {
  const nothing = () => 0;
  return {
    appCluster: true, fd: -1, ref: nothing, unref: nothing, hasRef: () => false, getAsyncId: nothing, close: nothing,
    getsockname(out) { Object.assign(out, address); return 0; },
  };
}

function stopListening(server) {
  const handle = server._handle;
  if (!handle || handle.appCluster) return;
  const address = {};
  if (typeof handle.getsockname === 'function') handle.getsockname(address);
  server._handle = standIn(address);
  handle.close();
}

/** From now on the responses of this server close their connections, and quiet ones are closed. */
function retire(server, quiet) {
  if (!storing) replace(require('http').ServerResponse.prototype, '_storeHeader', storeHeader);
  storing = true;
  const sessions = retiring.has(server) ? [] : Array.from(open).filter(isSession);
  retiring.set(server, quiet);
  for (const session of sessions) if (serverOf(session) === server) giveNotice(session);
  lookOften(quiet);
}

function lookOften(quiet) {
  // Unref'd: connections hold the process, this does not.
  timer = timer || (!said && setInterval(() => setImmediate(look), Math.min(Math.max(quiet / 8, 5), 25)).unref());
}

/** Says that no more streams should come. What comes after close() all the same is refused: it may be sent again. */
function giveNotice(session) {
  if (!session.destroyed && !session.closed) session.goaway(0, 2 ** 31 - 1);
}

const bySymbol = (object, text) => object[Object.getOwnPropertySymbols(object).find((key) => key.description === text)];

/** The parsers of connections that are between two requests. Without the list: all that have no request. */
function idleParsers(server) {
  const list = bySymbol(server, 'http.server.connections');
  return list && typeof list.idle === 'function' ? new Set(list.idle()) : { has: (parser) => !parser.incoming };
}

/** Right after the poll phase (setImmediate): what clients had sent until now has been read. */
const look = quietly(() => {
  const time = performance.now();
  const idle = new Map();
  for (const connection of open) {
    const server = serverOf(connection);
    const quiet = retiring.get(server);
    if (quiet === undefined) continue;
    if (!idle.has(server)) idle.set(server, idleParsers(server));
    lookAt(connection, quiet, idle.get(server), time);
  }
  for (const server of retiring.keys()) if (!server._handle && !server._connections) retiring.delete(server);
  if (plan) reportDrained();
  if (plan ? said : retiring.size === 0) {
    clearInterval(timer);
    timer = undefined;
    seen = new WeakMap();
  }
});

/** For how long (ms) it has looked like this. */
function quietFor(what, bytes, time) {
  const last = seen.get(what);
  if (last && last.bytes === bytes) return time - last.since;
  seen.set(what, { ...last, bytes, since: time });
  return 0;
}

const lookAt = quietly((connection, quiet, idle, time) => {
  if (isSession(connection)) {
    if (!connection.closed && quietFor(connection, 0, time) >= quiet) connection.close();
    return;
  }
  const below = isTls(connection.server) && !connection.encrypted;
  if (!below && !connection.parser) return void (plan && closeWebSocket(connection, time));
  const bytes = connection.bytesRead;
  const isQuiet = bytes === 0 || (!below && !connection._httpMessage && idle.has(connection.parser));
  if (!isQuiet) seen.delete(connection);
  else if (quietFor(connection, bytes, time) >= quiet) connection.destroySoon();
});

/**
 * 1012 = service restart. Only by the object of the `ws` package: a frame that is put between the bytes
 * of an unknown program (a proxy that pipes) could be within another frame. The rest is left to the app.
 */
function closeWebSocket(socket, time) {
  const webSocket = bySymbol(socket, 'websocket');
  if (!webSocket || typeof webSocket.close !== 'function') return;
  const state = seen.get(socket) || {};
  if (state.asked !== plan) {
    // At a random time, else all clients would come back at once.
    const left = Math.max(plan.since + plan.spread - time, 0);
    seen.set(socket, { asked: plan, due: time + Math.random() * left });
  } else if (state.until === undefined && time >= state.due) {
    // Not beyond the signal, after which the app's own clean-up has to wait for it.
    state.until = Math.min(time + Math.max(plan.within / 4, ANSWER), plan.since + plan.within * 0.9);
    webSocket.close(1012, 'Service Restart');
  } else if (time >= state.until) {
    socket.destroy();
  }
}

function reportDrained() {
  for (const server of live()) if (server._connections || (server._handle && !server._handle.appCluster)) return;
  for (const connection of open) if (!connection.destroyed && retiring.has(serverOf(connection))) return;
  if (!said) say('drained');
  said = true;
}

/** May this response be the last of its connection? */
const endsConnection = quietly(({ req, statusCode }) => {
  const { socket, headers, complete } = req;
  if (!socket || !retiring.has(socket.server) || statusCode < 200) return false;
  // Pipelined: another request has been read already.
  const newest = socket.parser && socket.parser.incoming;
  if (newest && newest !== req) return false;
  // Closed while its body still comes, the client could get a reset instead of the response.
  return complete || !(headers['transfer-encoding'] || headers['content-length'] > 0);
});

function storeHeader(original) {
  return function _storeHeader(firstLine, headers) {
    const ends = retiring.size > 0 && endsConnection(this);
    if (ends) this.shouldKeepAlive = false;
    const result = original.call(this, firstLine, headers);
    if (ends && !this._last && typeof this._header === 'string') {
      // The app itself wrote or removed the header.
      this._header = this._header.replace(/\r\n(?:connection|keep-alive):[^\r\n]*/gi, '')
        .replace(/\r\n\r\n$/, '\r\nConnection: close\r\n\r\n');
      this._last = true;
    }
    return result;
  };
}

function close(original) {
  const before = quietly(retire);
  return function close(...args) {
    // Also makes closeIdleConnections() harmless, which Node's close() calls.
    if (this._handle) before(this, plan ? plan.quiet : QUIET);
    return original.apply(this, args);
  };
}

const closeIdleConnections = (original) => function closeIdleConnections() {
  if (!retiring.has(this)) original.call(this);
};

/** Such a server does not ask the primary for its port, which nobody would understand from what follows. */
const tellIfAlone = quietly((args) => {
  const [{ port, exclusive, reusePort }] = require('net')._normalizeArgs(args);
  const [major, minor] = process.versions.node.split('.').map(Number);
  const reuses = reusePort && (major > 22 || (major === 22 && minor >= 12));
  if (exclusive || reuses) say('alone', { port: Number(port), option: exclusive ? 'exclusive' : 'reusePort' });
});

function listen(original) {
  return function listen(...args) {
    watch(this);
    tellIfAlone(args);
    if (plan === null || this._handle) {
      if (plan === null) retiring.delete(this);
      return original.apply(this, args);
    }
    // Nothing new is to come to a process that ends, but its start may wait for this server.
    const done = args[args.length - 1];
    if (typeof done === 'function') this.once('listening', done);
    const [{ port = 0, host = '::' }] = require('net')._normalizeArgs(args);
    this._handle = standIn({ address: host, family: host.includes(':') ? 'IPv6' : 'IPv4', port: Number(port) || 0 });
    process.nextTick(() => this.emit('listening'));
    return this;
  };
}

function drain({ quiet, within, hurry }) {
  const number = (value, otherwise) => (Number.isFinite(value) && value >= 0 ? value : otherwise);
  const first = plan === null;
  plan = { quiet: number(quiet, QUIET), within: number(within, 30000), since: performance.now() };
  plan.spread = hurry ? Math.min(1000, plan.within / 4) : plan.within / 2;
  const signals = process.eventNames().filter((name) => String(name).startsWith('SIG')).map(String);
  // First and once: some packages (signal-exit) act on a signal only if nobody else listens to it then.
  if (first) for (const name of signals) process.prependOnceListener(name, () => heard.add(name));
  say('draining', { signals });
  const end = quietly((server) => { stopListening(server); retire(server, plan.quiet); });
  for (const server of live()) {
    // Asked for before the drain, and perhaps answered after it.
    if (!server._handle) server.once('listening', () => end(server));
    end(server);
  }
  setImmediate(look);
  lookOften(plan.quiet);
  // What ends now does so by request: a lost channel is no reason to exit at once.
  const { worker } = require('cluster');
  if (worker) worker.exitedAfterDisconnect = true;
  if (first) process.channel.refCounted();
}

/** `after`: the signal, or 'message', that the app was told to end with. Its clean-up may close servers later. */
function release({ after }) {
  const letGo = () => process.channel && process.channel.unref();
  const acts = process.listenerCount(after) > 0;
  if (heard.has(after) || (after === 'message' && acts)) letGo();
  else if (acts) {
    // A signal goes another way than messages: this one is still to come.
    process.prependOnceListener(after, () => setImmediate(letGo));
    setTimeout(letGo, LATE).unref();
  } else {
    // The app does not know yet that these are closed.
    const { close: end } = require('net').Server.prototype;
    for (const server of live()) if (server._handle && server._handle.appCluster) end.call(server);
    letGo();
  }
}

function vitals() {
  const total = performance.eventLoopUtilization();
  const since = utilization ? performance.eventLoopUtilization(total, utilization) : total;
  utilization = total;
  const { heapUsed: heap, rss } = process.memoryUsage();
  say('vitals', { utilization: Math.min(Math.max(since.utilization || 0, 0), 1), heap, rss });
}

const ACTS = { drain, release, vitals };

const onMessage = quietly((message) => {
  if (message && message.cmd === MESSAGE && Object.hasOwn(ACTS, message.act)) ACTS[message.act](message);
});

function install() {
  send = process.send;
  ({ performance } = require('perf_hooks'));
  replace(require('net').Server.prototype, 'listen', listen);
  process.on('internalMessage', onMessage);
  say('hello', { version: 1, node: process.version, pid: process.pid });
}

try {
  delete require.cache[__filename];
  if (require('worker_threads').isMainThread) {
    const { APP_CLUSTER_FD: fd, APP_CLUSTER_ID: id } = process.env;
    const late = fd && id && !process.send;
    if (!(late && isLauncher())) {
      cleanEnvironment();
      if (parseInt(process.versions.node, 10) >= 18) {
        if (late && process.argv[1]) attach(Number(fd), id);
        if (process.send && require('cluster').isWorker) install();
      }
    }
  }
} catch { /* the app runs without it then */ }
