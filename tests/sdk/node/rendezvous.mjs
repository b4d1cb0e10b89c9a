// One end of the harness's rendezvous: servers and clients wait here for each other's steps, never for time.
// The other end is `harness/hub.py`. A key is signalled once and stays signalled.
import { connect } from 'node:net';
import { once } from 'node:events';

const PATIENCE_SECONDS = 20; // only ever spent when something is broken

export const signal = key => ask({ signal: key });
export const wait = key => ask({ wait: key, seconds: PATIENCE_SECONDS });

async function ask(question) {
  const [host, port] = process.env.SDK_RENDEZVOUS.split(':');
  const socket = connect(Number(port), host);
  socket.setEncoding('utf8');
  try {
    socket.write(JSON.stringify(question) + '\n');
    const [line] = await once(socket, 'data');
    const answer = JSON.parse(line);
    if (!answer.ok) throw new Error(answer.error);
  } finally {
    socket.destroy();
  }
}
