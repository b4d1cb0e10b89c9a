// What stands in front of the SDK's server: the demand for the credential, and a log of what really arrived.
// The same as `python/wire.py`, and outside the SDK for the same reason: raw headers, not the SDK's view of them.
import { appendFileSync } from 'node:fs';
import { once } from 'node:events';
import { signal } from './rendezvous.mjs';

export class WireLog {
  constructor(path) {
    this.path = path;
  }

  // Synchronous, so that a line is on disk before its effect is seen.
  write(record) {
    appendFileSync(this.path, JSON.stringify(record) + '\n');
  }
}

export class Gate {
  #log;
  #credential;
  #serve;
  #numbers = 0;
  #pushes = new Map();

  /** `serve(req, res, message)` is the SDK's side. */
  constructor(log, credential, serve) {
    this.#log = log;
    this.#credential = credential;
    this.#serve = serve;
  }

  /** Resolves once the session's standing GET stream has been answered. */
  pushStreamOpen(session) {
    return this.#push(session).promise;
  }

  async handle(req, res) {
    const message = await readMessage(req);
    const rpc = summary(message);
    const headers = pairs(req.rawHeaders);
    const tokens = headers.filter(([name]) => name === 'authorization').map(([, value]) => value);
    const authorized = tokens.length === 1 && tokens[0] === this.#credential;
    const n = ++this.#numbers;
    this.#log.write({ event: 'request', n, http: req.method, path: req.url, headers, authorized, rpc });
    this.#watch(req, res, n, rpc);
    if (!authorized) {
      res.writeHead(401, { 'www-authenticate': 'Bearer realm="harness"' }).end();
    } else if (rpc.name === 'hold') {
      // Answers nothing at all, not even a head, until the peer has left.
      await signal(`${rpc.gate}/started`);
    } else {
      await this.#serve(req, res, message);
    }
  }

  #watch(req, res, n, rpc) {
    let finished = false;
    // Wrapped rather than listened to: the line must be written before the peer can see the effect.
    const writeHead = res.writeHead;
    res.writeHead = (...args) => {
      const head = writeHead.apply(res, args);
      const session = String(headOf(args)['mcp-session-id'] ?? '');
      this.#log.write({ event: 'head', n, status: res.statusCode, session });
      if (req.method === 'GET' && !req.headers['last-event-id'] && res.statusCode === 200) this.#push(session).open();
      return head;
    };
    const end = res.end;
    res.end = (...args) => {
      // The SDK also ends an answer that has nobody left to read it.
      if (!req.socket.destroyed) {
        finished = true;
        this.#log.write({ event: 'finished', n });
      }
      return end.apply(res, args);
    };
    res.on('close', () => {
      if (finished) return;
      this.#log.write({ event: 'disconnected', n, head_sent: res.headersSent });
      if (rpc.gate) signal(`${rpc.gate}/disconnected`);
    });
  }

  #push(session) {
    if (!this.#pushes.has(session)) {
      let open;
      const promise = new Promise(resolve => (open = resolve));
      this.#pushes.set(session, { promise, open });
    }
    return this.#pushes.get(session);
  }
}

async function readMessage(req) {
  const chunks = [];
  req.on('data', chunk => chunks.push(chunk));
  await once(req, 'end');
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    return undefined;
  }
}

function pairs(raw) {
  const list = [];
  for (let i = 0; i < raw.length; i += 2) list.push([raw[i].toLowerCase(), raw[i + 1]]);
  return list;
}

// `writeHead(status[, reason][, headers])`
function headOf(args) {
  const headers = args.at(-1);
  return typeof headers === 'object' ? Object.fromEntries(Object.entries(headers)) : {};
}

// The parts of a JSON-RPC message by which the harness recognises it; absent ones are left out by JSON.
function summary(message) {
  const params = message?.params ?? {};
  return {
    id: message?.id,
    method: message?.method,
    name: params.name ?? params.uri,
    gate: params.arguments?.gate,
    params: Object.keys(params).sort(),
    request_id: params.requestId,
    is_answer: message && ('result' in message || 'error' in message) ? true : undefined,
  };
}
