// The MCP server on the official TypeScript SDK 1.x: Streamable HTTP with sessions (2025-11-25), resumable.
// Prints `{"port": n}` when it listens. Each tool exists for the scenario of the same idea in `scenarios.mjs`.
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { parseArgs } from 'node:util';
import { McpServer, ResourceTemplate } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { ElicitResultSchema, isInitializeRequest } from '@modelcontextprotocol/sdk/types.js';
import { z } from 'zod';
import { MemoryEventStore } from './event_store.mjs';
import { signal, wait } from './rendezvous.mjs';
import { Gate, WireLog } from './wire.mjs';

const RETRY_MILLISECONDS = 50; // what a client waits before it resumes
const KEEP_ALIVE_MILLISECONDS = 600_000; // for the reason given in python/server.py

const option = { type: 'string' };
const { values: options } = parseArgs({ options: { cert: option, key: option, log: option, payload: option } });
const log = new WireLog(options.log);
const payload = readFileSync(options.payload, 'utf8');
const sessions = new Map();
const parties = new Map();
const gate = new Gate(log, process.env.SDK_CREDENTIAL, serve);

const text = value => ({ content: [{ type: 'text', text: value }] });

function progress(extra, step, total) {
  const params = { progressToken: extra._meta.progressToken, progress: step, total };
  return extra.sendNotification({ method: 'notifications/progress', params });
}

// Callers are let go only together: proof that all were in flight at once.
function join(name, size) {
  if (!parties.has(name)) parties.set(name, []);
  const party = parties.get(name);
  return new Promise(resolve => {
    party.push(resolve);
    if (party.length === size) party.forEach(leave => leave());
  });
}

const tools = {
  echo: [{ text: z.string() }, async ({ text: said }) => text(said)],

  big: [{}, async () => text(payload)],

  // Reports a step only when the client has acknowledged the one before.
  count: [{ steps: z.number(), gate: z.string() }, async ({ steps, gate: name }, extra) => {
    for (let step = 1; step <= steps; step++) {
      await progress(extra, step, steps);
      await wait(`${name}/progress/${step}`);
    }
    return text(`counted ${steps}`);
  }],

  meet: [{ label: z.string(), size: z.number(), gate: z.string() }, async ({ label, size, gate: name }) => {
    await join(name, size);
    return text(label);
  }],

  ask: [{}, async (_, extra) => {
    const requestedSchema = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };
    const params = { mode: 'form', message: 'Who is there?', requestedSchema };
    const { content } = await extra.sendRequest({ method: 'elicitation/create', params }, ElicitResultSchema);
    return text(`hello ${content.name}`);
  }],

  // Runs until released or cancelled. Not noisy: sends nothing before that.
  slow: [{ gate: z.string(), noisy: z.boolean() }, async ({ gate: name, noisy }, extra) => {
    const cancelled = new Promise(resolve => extra.signal.addEventListener('abort', resolve));
    if (noisy) await progress(extra, 1, 2);
    await signal(`${name}/started`);
    await Promise.race([wait(`${name}/release`), cancelled]);
    if (extra.signal.aborted) {
      log.write({ event: 'cancelled', gate: name });
      await signal(`${name}/cancelled`);
    }
    return text('released');
  }],

  // Ends its own event stream halfway; the rest can only be had with `Last-Event-ID`.
  resume: [{ gate: z.string() }, async ({ gate: name }, extra) => {
    await progress(extra, 1, 2);
    await wait(`${name}/progress/1`);
    extra.closeSSEStream();
    await progress(extra, 2, 2);
    return text('resumed');
  }],
};

// Notifies over the standing stream, not over this call's, and returns when the client has heard it.
const announce = server => async ({ gate: name }, extra) => {
  await gate.pushStreamOpen(extra.sessionId);
  await server.server.sendToolListChanged();
  await wait(`${name}/heard`);
  return text('announced');
};

function build() {
  const server = new McpServer({ name: 'ts-server', version: '1' }, { capabilities: { tools: { listChanged: true } } });
  for (const [name, [inputSchema, handler]] of Object.entries(tools)) {
    server.registerTool(name, { inputSchema }, handler);
  }
  server.registerTool('announce', { inputSchema: { gate: z.string() } }, announce(server));
  server.registerResource('note', new ResourceTemplate('note://{name}', {}), {}, async (uri, { name }) => ({
    contents: [{ uri: uri.href, text: `note about ${decodeURIComponent(name)}` }],
  }));
  return server;
}

async function open() {
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    eventStore: new MemoryEventStore(),
    retryInterval: RETRY_MILLISECONDS,
    onsessioninitialized: id => sessions.set(id, transport),
    onsessionclosed: id => sessions.delete(id),
  });
  await build().connect(transport);
  return transport;
}

async function serve(req, res, message) {
  const id = req.headers['mcp-session-id'];
  if (id !== undefined && !sessions.has(id)) return refuse(res, 404, 'Session not found');
  if (id === undefined && !isInitializeRequest(message)) return refuse(res, 400, 'No session');
  const transport = sessions.get(id) ?? (await open());
  await transport.handleRequest(req, res, message);
}

function refuse(res, status, reason) {
  res.writeHead(status, { 'content-type': 'application/json' });
  res.end(JSON.stringify({ jsonrpc: '2.0', id: null, error: { code: -32000, message: reason } }));
}

const tls = { cert: readFileSync(options.cert), key: readFileSync(options.key) };
const listener = createServer(tls, (req, res) => gate.handle(req, res));
listener.keepAliveTimeout = KEEP_ALIVE_MILLISECONDS;
listener.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: listener.address().port })));
