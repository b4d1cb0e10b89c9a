// The event store that makes the TypeScript SDK's streams resumable.
const STANDING_STREAM = '_GET_stream'; // the SDK's name for the stream that answers no request

export class MemoryEventStore {
  #events = []; // an event's id is its index
  #waiting = [];

  async storeEvent(streamId, message) {
    this.#events.push({ streamId, message });
    for (const wake of this.#waiting.splice(0)) wake();
    return String(this.#events.length - 1);
  }

  async getStreamIdForEventId(eventId) {
    return this.#events[Number(eventId)]?.streamId;
  }

  async replayEventsAfter(lastEventId, { send }) {
    const seen = Number(lastEventId);
    const { streamId } = this.#events[seen];
    // As in python/event_store.py: a resumed stream is replayed only when complete.
    while (streamId !== STANDING_STREAM && !this.#isAnswered(streamId, seen)) {
      await new Promise(resolve => this.#waiting.push(resolve));
    }
    for (const [id, event] of this.#events.entries()) {
      const isPriming = Object.keys(event.message).length === 0;
      if (id > seen && event.streamId === streamId && !isPriming) await send(String(id), event.message);
    }
    return streamId;
  }

  #isAnswered(streamId, seen) {
    return this.#events.some(
      (event, id) => id > seen && event.streamId === streamId && ('result' in event.message || 'error' in event.message),
    );
  }
}
