// Drives Constructor's public clients, unmodified, for tests written in Python.
//
// stdin:  one JSON object a line:
//   {id, client: "javascript" | "node", options, module, method, args, headers}
// stdout: one JSON object a line, in the order in which the calls end:
//   {id, value, requests} | {id, error: {name, message, status}, requests}
// `requests` are the HTTP exchanges of the call: {method, url, status, body}; `messages` are those of
// errors that the tracker told its listeners. The method `$methods` lists what a module has.
//
// In arguments, {"$file": path} becomes a read stream and {"$buffer": base64} a Buffer.
// An instance lives as long as the driver, one for each different `options`.
'use strict';

// Newer Node has these without a window, which the client takes for a broken browser.
delete globalThis.localStorage;
delete globalThis.sessionStorage;

const fs = require('node:fs');
const readline = require('node:readline');

const clients = {
  javascript: require('@constructor-io/constructorio-client-javascript'),
  node: require('@constructor-io/constructorio-node'),
};

const instances = new Map();

function instanceOf(client, options) {
  const name = JSON.stringify([client, options]);
  if (!instances.has(name)) {
    const instance = { exchanges: [], messages: [], pending: 0, headers: {} };
    instance.client = new clients[client]({ ...options, fetch: recording(client, instance) });
    instance.client.tracker.on('error', ({ message }) => { instance.messages.push(message); });
    instances.set(name, instance);
  }
  return instances.get(name);
}

function recording(client, instance) {
  return async (url, init = {}) => {
    // The node client speaks https only; its documented option `fetch` is where a shop would put a
    // proxy, and where a test takes the s away.
    const plain = String(url).replace(/^https:\/\/(127\.0\.0\.1|localhost)/, 'http://$1');
    const exchange = { method: init.method || 'GET', url: plain, status: null };
    if (typeof init.body === 'string') exchange.body = init.body;
    instance.exchanges.push(exchange);
    instance.pending += 1;
    try {
      const fetch = client === 'node' ? (await import('node-fetch')).default : globalThis.fetch;
      const response = await fetch(plain, {
        ...init,
        headers: { ...init.headers, ...instance.headers },
      });
      exchange.status = response.status;
      return response;
    } finally {
      instance.pending -= 1;
    }
  };
}

function argument(value) {
  if (Array.isArray(value)) return value.map(argument);
  if (value === null || typeof value !== 'object') return value;
  if ('$file' in value) return fs.createReadStream(value.$file);
  if ('$buffer' in value) return Buffer.from(value.$buffer, 'base64');
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, argument(v)]));
}

// The trackers answer at once and send later: wait until nothing has been under way for two turns.
async function settle(instance) {
  for (let quiet = 0; quiet < 2; quiet = instance.pending ? 0 : quiet + 1) {
    await new Promise((resolve) => { setTimeout(resolve, 2); });
  }
}

async function call({ id, client, options, module, method, args, headers }) {
  let instance;
  let answer;
  try {
    instance = instanceOf(client, options);
    instance.headers = headers || {};
    instance.exchanges = [];
    instance.messages = [];
    const target = instance.client[module];
    if (method === '$methods') {
      answer = { id, value: Object.getOwnPropertyNames(Object.getPrototypeOf(target)) };
      return process.stdout.write(`${JSON.stringify(answer)}\n`);
    }
    if (!target || typeof target[method] !== 'function') {
      throw new Error(`the ${client} client has no ${module}.${method}`);
    }
    let value = await target[method](...args.map(argument));
    if (value instanceof Error) throw value; // the trackers return what is wrong
    if (value === undefined) value = null;
    answer = { id, value };
  } catch (error) {
    answer = {
      id,
      error: { name: error.name, message: String(error.message), status: error.status ?? null },
    };
  }
  if (instance) {
    await settle(instance);
    answer.requests = instance.exchanges;
    answer.messages = instance.messages;
  }
  return process.stdout.write(`${JSON.stringify(answer)}\n`);
}

// One call after the other on one instance, so that its exchanges are told apart.
const queues = new Map();

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const request = JSON.parse(line);
  const name = JSON.stringify([request.client, request.options]);
  queues.set(name, (queues.get(name) || Promise.resolve()).then(() => call(request)));
});
