import assert from "node:assert/strict";
import { test } from "node:test";

import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorInfo, retry, type GatewayClient } from "n8n-gateway-client";

import { RetryInfoSchema } from "n8n-gateway-client/google/rpc/error_details";
import { clientOf } from "./gateway.js";

const FAST = { initialDelayMs: 1, maxDelayMs: 20 };

function retryInfo(milliseconds: number) {
  return { desc: RetryInfoSchema, value: { retryDelay: durationFromMs(milliseconds) } };
}

/** A gateway that fails `failures` times, then answers; and how often it was called. */
function failing(failures: number, error = new ConnectError("away", Code.Unavailable), policy = {}) {
  const calls = { count: 0 };
  const answer = () => {
    calls.count++;
    if (calls.count <= failures) {
      throw error;
    }
    return {};
  };
  const client = clientOf(
    {
      executions: { execute: answer, startExecution: answer, getExecution: answer, cancelExecution: answer },
      organizations: { createOrganization: answer },
    },
    retry({ ...FAST, ...policy }),
  );
  return { client, calls };
}

const SAFE: Record<string, (client: GatewayClient) => Promise<unknown>> = {
  "a method without side effects": (client) => client.executions.getExecution({}),
  "an idempotent method": (client) => client.executions.cancelExecution({}),
  "Execute with a key": (client) => client.executions.execute({ idempotencyKey: "k" }),
  "Execute with a key in the header": (client) =>
    client.executions.execute({}, { headers: { "Idempotency-Key": "k" } }),
  "StartExecution with a key": (client) => client.executions.startExecution({ idempotencyKey: "k" }),
};

for (const [name, call] of Object.entries(SAFE)) {
  test(`${name} is repeated until it succeeds`, async () => {
    const { client, calls } = failing(2);
    await call(client);
    assert.equal(calls.count, 3);
  });
}

const UNSAFE: Record<string, (client: GatewayClient) => Promise<unknown>> = {
  "Execute without a key": (client) => client.executions.execute({}),
  "a header that the method does not know": (client) =>
    client.organizations.createOrganization({}, { headers: { "Idempotency-Key": "k" } }),
};

for (const [name, call] of Object.entries(UNSAFE)) {
  test(`${name} repeats nothing`, async () => {
    const { client, calls } = failing(1);
    await assert.rejects(call(client), /away/);
    assert.equal(calls.count, 1);
  });
}

test("attempts have an end", async () => {
  const { client, calls } = failing(9);
  await assert.rejects(client.executions.getExecution({}), /away/);
  assert.equal(calls.count, 4);
});

test("other codes are not repeated", async () => {
  const { client, calls } = failing(1, new ConnectError("wrong", Code.Internal));
  await assert.rejects(client.executions.getExecution({}), /wrong/);
  assert.equal(calls.count, 1);
});

test("the gateway's own delay is waited for", async () => {
  const error = new ConnectError("busy", Code.Unavailable, undefined, [retryInfo(15)]);
  const { client, calls } = failing(1, error, { initialDelayMs: 3_600_000, maxDelayMs: 3_600_000 });
  await client.executions.getExecution({});
  assert.equal(calls.count, 2);
  assert.equal(errorInfo(error).retryAfterMs, 15);
});

test("a delay beyond the longest is not waited for", async () => {
  const error = new ConnectError("busy", Code.Unavailable, undefined, [retryInfo(3_600_000)]);
  const { client, calls } = failing(1, error);
  await assert.rejects(client.executions.getExecution({}), /busy/);
  assert.equal(calls.count, 1);
});

const PAUSING = { initialDelayMs: 3_600_000, maxDelayMs: 3_600_000 };

test("the deadline ends a pause", async () => {
  const { client } = failing(1, undefined, PAUSING);
  const call = client.executions.getExecution({}, { timeoutMs: 20 });
  await assert.rejects(call, (error) => errorInfo(error).code === Code.DeadlineExceeded);
});

test("cancelling ends a pause", async () => {
  const { client } = failing(1, undefined, PAUSING);
  const call = client.executions.getExecution({}, { signal: AbortSignal.timeout(20) });
  await assert.rejects(call, ConnectError);
});
