import assert from "node:assert/strict";
import { test } from "node:test";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { follow, type Break, type OnBreak } from "n8n-gateway-client";
import { ErrorInfoSchema } from "n8n-gateway-client/google/rpc/error_details";
import type { ExecutionEventSchema } from "n8n-gateway-client/v1/execution_event";
import type { WatchExecutionRequest } from "n8n-gateway-client/v1/execution_service";

import { clientOf } from "./gateway.js";

type Event = MessageInitShape<typeof ExecutionEventSchema>;
type Watch = (request: WatchExecutionRequest) => AsyncIterable<Event>;

function chunk(sequence: number): Event {
  return { executionId: "e", sequence, event: { case: "chunk", value: {} } };
}

function completed(sequence: number): Event {
  return { executionId: "e", sequence, event: { case: "completed", value: {} } };
}

function gateway(stream: () => AsyncIterable<Event>, watch: Watch = stream) {
  return clientOf({ executions: { executeStream: stream, watchExecution: watch } }).executions;
}

async function* broken(): AsyncIterable<Event> {
  yield chunk(1);
  yield chunk(2);
  throw new ConnectError("cut", Code.Unavailable);
}

async function read(executions: ReturnType<typeof gateway>, onBreak?: OnBreak) {
  const sequences: number[] = [];
  let error: unknown;
  try {
    for await (const { sequence } of follow(executions, {}, onBreak && { onBreak })) {
      sequences.push(sequence);
    }
  } catch (thrown) {
    error = thrown;
  }
  return { sequences, error };
}

test("a whole stream is read without a break", async () => {
  const executions = gateway(async function* () {
    yield chunk(1);
    yield completed(2);
  });
  const onBreak = () => assert.fail("it did not break");
  assert.deepEqual(await read(executions, onBreak), { sequences: [1, 2], error: undefined });
});

test("the hook is told where to resume, and its events are read on, each once", async () => {
  const executions = gateway(broken, async function* ({ executionId, afterSequence }) {
    assert.deepEqual([executionId, afterSequence], ["e", 2]);
    yield chunk(2);
    yield chunk(3);
    yield completed(4);
  });
  const breaks: Break[] = [];
  const { sequences, error } = await read(executions, (where) => {
    breaks.push(where);
    return executions.watchExecution({ executionId: where.executionId, afterSequence: where.lastSequence });
  });
  assert.deepEqual([sequences, error], [[1, 2, 3, 4], undefined]);
  assert.deepEqual(
    breaks.map(({ attempt, error }) => [attempt, error.code]),
    [[1, Code.Unavailable]],
  );
});

test("a stream that ends too early is a break", async () => {
  const executions = gateway(
    async function* () {
      yield chunk(1);
    },
    async function* () {
      yield completed(2);
    },
  );
  const { sequences } = await read(executions, () => executions.watchExecution({}));
  assert.deepEqual(sequences, [1, 2]);
});

test("attempts count the breaks without a new event", async () => {
  let watches = 0;
  const executions = gateway(broken, async function* () {
    if (++watches === 3) {
      yield chunk(3);
    }
    throw new ConnectError("cut again", Code.Unavailable);
  });
  const attempts: number[] = [];
  const { sequences, error } = await read(executions, ({ attempt }) => {
    attempts.push(attempt);
    return watches < 5 ? executions.watchExecution({}) : undefined;
  });
  assert.deepEqual([sequences, attempts], [[1, 2, 3], [1, 2, 3, 1, 2, 3]]);
  assert.match(String(error), /cut again/);
});

test("without a hook the break is thrown", async () => {
  const { sequences, error } = await read(gateway(broken));
  assert.deepEqual(sequences, [1, 2]);
  assert.match(String(error), /cut/);
});

test("an error before the first event is no break", async () => {
  const executions = gateway(async function* () {
    throw new ConnectError("no such workflow", Code.NotFound);
  });
  const { sequences, error } = await read(executions, () => assert.fail("nothing has begun"));
  assert.deepEqual(sequences, []);
  assert.match(String(error), /no such workflow/);
});

test("the error of a failed run is no break", async () => {
  const executions = gateway(async function* () {
    yield chunk(1);
    yield { executionId: "e", sequence: 2, event: { case: "failed", value: {} } };
    throw new ConnectError("a node failed", Code.Aborted);
  });
  const { sequences, error } = await read(executions, () => assert.fail("the run has ended"));
  assert.deepEqual(sequences, [1, 2]);
  assert.match(String(error), /a node failed/);
});

test("what the gateway refuses to resume is no break", async () => {
  const gone = { desc: ErrorInfoSchema, value: { reason: "EXECUTION_NOT_FOUND" } };
  const executions = gateway(broken, async function* () {
    throw new ConnectError("no such execution", Code.NotFound, undefined, [gone]);
  });
  let attempts = 0;
  const { sequences, error } = await read(executions, () => {
    attempts++;
    return executions.watchExecution({});
  });
  assert.deepEqual([sequences, attempts], [[1, 2], 1]);
  assert.match(String(error), /no such execution/);
});

test("leaving the loop ends the call", async () => {
  let ended: (reason: unknown) => void;
  const aborted = new Promise((resolve) => (ended = resolve));
  const endless = async function* (_: unknown, { signal }: HandlerContext) {
    signal.addEventListener("abort", () => ended(true));
    yield chunk(1);
    await aborted;
  };
  const { executions } = clientOf({ executions: { executeStream: endless } });
  for await (const _ of follow(executions, {})) {
    break;
  }
  assert.equal(await aborted, true);
});
