// The agent on the official TypeScript SDK 1.x. Reads one job (a JSON line) after the other, answers each with one line.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { scenarios } from './scenarios.mjs';

/** One scenario against one server. `gate` prefixes the scenario's keys in the rendezvous. */
class Job {
  constructor(fields) {
    Object.assign(this, fields);
  }

  expectedPayload() {
    return readFileSync(this.payload, 'utf8');
  }

  /** Runs `body(client, transport)` with a connected SDK client; `prepare(client)` may add handlers before. */
  async connected(body, { capabilities = {}, prepare = () => {} } = {}) {
    const client = new Client({ name: 'harness', version: '1' }, { capabilities });
    prepare(client);
    const transport = new StreamableHTTPClientTransport(new URL(this.url), { requestInit: { headers: this.headers } });
    try {
      await client.connect(transport);
      return await body(client, transport);
    } finally {
      await client.close();
    }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const job = new Job(JSON.parse(line));
  let answer = { ok: true };
  try {
    await scenarios[job.scenario](job);
  } catch (failure) {
    console.error(failure);
    answer = { ok: false, error: `${failure}${failure.cause ? ` (${failure.cause})` : ''}` };
  }
  console.log(JSON.stringify(answer));
}
