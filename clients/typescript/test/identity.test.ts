import assert from "node:assert/strict";
import { test } from "node:test";

import { fromJson, toJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import { identity, type Identity } from "n8n-gateway-client";

import { clientOf } from "./gateway.js";

const NAMES = ["authorization", "x-api-key", "x-tenant-id"];

const executions = {
  execute: (_: unknown, { requestHeader }: HandlerContext) => {
    const sent = NAMES.map((name) => [name, requestHeader.get(name)] as const).filter(([, value]) => value);
    return { data: fromJson(ValueSchema, Object.fromEntries(sent)) };
  },
};

async function sent(given: Identity, headers: Record<string, string> = {}): Promise<unknown> {
  const client = clientOf({ executions }, identity(given));
  const { data } = await client.executions.execute({}, { headers });
  return data && toJson(ValueSchema, data);
}

test("all of an identity is sent", async () => {
  assert.deepEqual(await sent({ token: "t0", apiKey: "k0", tenant: "o0" }), {
    authorization: "Bearer t0",
    "x-api-key": "k0",
    "x-tenant-id": "o0",
  });
});

test("no identity sends none", async () => {
  assert.deepEqual(await sent({}), {});
});

test("a token's function is asked for each call", async () => {
  let count = 0;
  const given = { token: async () => `t${++count}` };
  assert.deepEqual(await sent(given), { authorization: "Bearer t1" });
  assert.deepEqual(await sent(given), { authorization: "Bearer t2" });
});

test("headers of a call go first", async () => {
  const token = () => assert.fail("the token was asked for");
  assert.deepEqual(await sent({ token, tenant: "o0" }, { Authorization: "Bearer own", "X-Tenant-Id": "own" }), {
    authorization: "Bearer own",
    "x-tenant-id": "own",
  });
});

test("what the token's function throws, the call throws", async () => {
  const token = () => {
    throw new Error("signed out");
  };
  await assert.rejects(sent({ token }), /signed out/);
});
