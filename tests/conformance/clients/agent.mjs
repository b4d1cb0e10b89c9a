// An agent on an official TypeScript SDK: `node agent.mjs 1` on @modelcontextprotocol/sdk, `2` on its successor
// @modelcontextprotocol/client. The commands are those of agent.py.
import { createInterface } from 'node:readline';

const generation = process.argv[2];

async function load() {
  if (generation === '2') return import('@modelcontextprotocol/client');
  const sdk = '@modelcontextprotocol/sdk/client';
  const parts = await Promise.all(['index', 'streamableHttp', 'sse'].map(name => import(`${sdk}/${name}.js`)));
  return Object.assign({}, ...parts);
}

const sdk = await load();

// Would log in by itself, if something made it.
const login = {
  redirectUrl: 'http://127.0.0.1/back',
  clientMetadata: { client_name: 'agent', redirect_uris: ['http://127.0.0.1/back'] },
  clientInformation: () => undefined,
  saveClientInformation: () => {},
  tokens: () => undefined,
  saveTokens: () => {},
  codeVerifier: () => 'unused',
  saveCodeVerifier: () => {},
  redirectToAuthorization: () => {
    throw new Error('a login was begun');
  },
};

// What came over the wire since the last answer.
const nothing = () => ({ challenges: 0, login: [] });
let seen = nothing();

async function watched(url, init) {
  const { pathname } = new URL(url);
  if (/^\/\.well-known\/|\/(register|authorize|token)$/.test(pathname)) seen.login.push(pathname);
  const response = await fetch(url, init);
  if (response.headers.has('www-authenticate')) seen.challenges += 1;
  return response;
}

let client;
const actions = {
  async connect({ url, transport, mode, oauth }) {
    const options = mode === 'auto' ? { versionNegotiation: { mode } } : {};
    const opened = new sdk.Client({ name: 'agent', version: '1' }, options);
    const Transport = transport === 'sse' ? sdk.SSEClientTransport : sdk.StreamableHTTPClientTransport;
    const wire = new Transport(new URL(url), { fetch: watched, ...(oauth && { authProvider: login }) });
    try {
      await opened.connect(wire);
    } catch (failure) {
      await opened.close();
      throw failure;
    }
    client = opened;
    return client.getNegotiatedProtocolVersion?.() ?? wire.protocolVersion ?? null;
  },
  async list() {
    return (await client.listTools()).tools.map(tool => tool.name);
  },
  async call({ tool, text }) {
    const options = { onprogress: ({ progress }) => console.log(JSON.stringify({ progress })) };
    const request = { name: tool, arguments: { text } };
    const call = generation === '1' ? client.callTool(request, undefined, options) : client.callTool(request, options);
    return (await call).content[0].text;
  },
  async close() {
    await client.close();
    client = undefined;
    return null;
  },
};

function told(failure) {
  const kept = [failure.cause && `${failure.cause}`, failure.data && JSON.stringify(failure.data)];
  const causes = [];
  for (let cause = failure.cause; cause; cause = cause.cause) causes.push(`${cause}`);
  return { error: `${failure}`, kept: kept.filter(Boolean).join(' '), causes };
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    if (!client && command.do !== 'connect') throw new Error('the session is gone');
    answer = { ok: true, value: await actions[command.do](command) };
  } catch (failure) {
    answer = { ok: false, ...told(failure) };
  }
  console.log(JSON.stringify({ ...answer, seen }));
  seen = nothing();
}
