// What the TypeScript client does; the counterpart of `python/scenarios.py`, in the same order.
import {
  ElicitRequestSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { isDeepStrictEqual } from 'node:util';
import { signal, wait } from './rendezvous.mjs';

const TOOLS = ['echo', 'big', 'count', 'meet', 'ask', 'slow', 'resume', 'announce'];
const PARTY = 20;
const STEPS = 5;

function same(actual, expected) {
  if (isDeepStrictEqual(actual, expected)) return;
  const short = value => String(JSON.stringify(value)).slice(0, 300);
  throw new Error(`got ${short(actual)}, expected ${short(expected)}`);
}

function textOf(result) {
  same([result.isError ?? false, result.content.length], [false, 1]);
  return result.content[0].text;
}

const call = async (client, name, args = {}) => textOf(await client.callTool({ name, arguments: args }));

const connect = job =>
  job.connected(async (client, transport) => {
    same(transport.protocolVersion, job.version);
    same(await call(client, 'echo', { text: 'hello' }), 'hello');
  });

const list = job =>
  job.connected(async client => {
    const listed = (await client.listTools()).tools.map(tool => tool.name);
    same(TOOLS.filter(name => !listed.includes(name)), []);
  });

const callTool = job =>
  job.connected(async client => {
    const text = 'größe "quoted" \\ \r\n data: 漢字 \u2028';
    same(await call(client, 'echo', { text }), text);
  });

// The server sends a step only after the step before was acknowledged: a burst is impossible.
const progress = job =>
  job.connected(async client => {
    const steps = [];
    const onprogress = ({ progress: step }) => {
      steps.push(step);
      signal(`${job.gate}/progress/${step}`);
    };
    const params = { name: 'count', arguments: { steps: STEPS, gate: job.gate } };
    same(textOf(await client.callTool(params, undefined, { onprogress })), `counted ${STEPS}`);
    same(steps, [1, 2, 3, 4, 5]);
  });

const big = job =>
  job.connected(async client => {
    const [received, expected] = [await call(client, 'big'), job.expectedPayload()];
    if (received !== expected) throw new Error(`${received.length} characters differ from the ${expected.length} sent`);
  });

// No call is answered before all have arrived, and each must get its own answer.
const concurrent = job =>
  job.connected(async client => {
    const labels = Array.from({ length: PARTY }, (_, number) => `${job.gate} caller ${number}`);
    const answers = labels.map(label => call(client, 'meet', { label, size: PARTY, gate: job.gate }));
    same(await Promise.all(answers), labels);
  });

async function elicit(job) {
  const asked = [];
  const prepare = client =>
    client.setRequestHandler(ElicitRequestSchema, async ({ params }) => {
      asked.push(params.message);
      same(params.requestedSchema.properties.name.type, 'string');
      return { action: 'accept', content: { name: job.gate } };
    });
  const body = async client => same(await call(client, 'ask'), `hello ${job.gate}`);
  await job.connected(body, { capabilities: { elicitation: { form: {} } }, prepare });
  same(asked, ['Who is there?']);
}

// A notification that belongs to no call, while a call is pending.
const push = job =>
  job.connected(async client => same(await call(client, 'announce', { gate: job.gate }), 'announced'), {
    prepare: client =>
      client.setNotificationHandler(ToolListChangedNotificationSchema, () => signal(`${job.gate}/heard`)),
  });

const resource = job =>
  job.connected(async client => {
    const { contents } = await client.readResource({ uri: 'note://größe' });
    same(contents.map(content => content.text), ['note about größe']);
  });

const resume = job =>
  job.connected(async client => {
    const onprogress = ({ progress: step }) => signal(`${job.gate}/progress/${step}`);
    const params = { name: 'resume', arguments: { gate: job.gate } };
    same(textOf(await client.callTool(params, undefined, { onprogress })), 'resumed');
    await wait(`${job.gate}/progress/2`);
  });

const endSession = job =>
  job.connected(async (client, transport) => {
    same(await call(client, 'echo', { text: 'last words' }), 'last words');
    await transport.terminateSession(); // throws unless the DELETE succeeded
  });

// Before 2026-07-28 a client cancels by notification, and goes on.
const cancelNotified = job =>
  job.connected(async client => {
    const stop = new AbortController();
    const params = { name: 'slow', arguments: { gate: job.gate, noisy: false } };
    const call_ = client.callTool(params, undefined, { signal: stop.signal });
    await wait(`${job.gate}/started`);
    stop.abort('enough');
    await mustFail(call_);
    await wait(`${job.gate}/cancelled`);
    same(await call(client, 'echo', { text: 'still here' }), 'still here');
  });

// Closing a client aborts its requests without a word to the server.
async function abort(job, name, noisy) {
  await job.connected(async client => {
    let hear;
    const heard = new Promise(resolve => (hear = resolve));
    const params = { name, arguments: { gate: job.gate, noisy } };
    const doomed = mustFail(client.callTool(params, undefined, { onprogress: () => hear() }));
    await (noisy ? heard : wait(`${job.gate}/started`));
    await client.close();
    await doomed;
  });
  await wait(`${job.gate}/disconnected`);
  await signal(`${job.gate}/release`);
}

async function mustFail(promise) {
  const answer = await promise.catch(() => undefined);
  if (answer !== undefined) throw new Error(`answered: ${JSON.stringify(answer)}`);
}

export const scenarios = {
  connect,
  list,
  call: callTool,
  progress,
  big,
  concurrent,
  elicit,
  push,
  resource,
  resume,
  'end-session': endSession,
  'cancel-notified': cancelNotified,
  'abort-mid-stream': job => abort(job, 'slow', true),
  // The server heads its answer at once, so the harness's own tool holds everything back.
  'abort-before-headers': job => abort(job, 'hold', false),
};
