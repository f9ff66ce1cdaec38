import assert from "node:assert/strict";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { anyPack, anyUnpack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { transportOptions } from "n8n-gateway-client";
import { ErrorInfoSchema } from "n8n-gateway-client/google/rpc/error_details";

import { clientWith } from "./gateway.js";

const executions = {
  async *executeStream() {
    const detail = anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason: "WORKFLOW_FAILED" }));
    const status = { code: Code.Aborted, message: "a node failed", details: [detail] };
    yield { sequence: 1, event: { case: "failed" as const, value: { status } } };
  },
};

for (const useBinaryFormat of [true, false]) {
  test(`details within messages are read in ${useBinaryFormat ? "binary" : "JSON"}`, async () => {
    const client = clientWith({ executions }, { ...transportOptions(), useBinaryFormat });
    const reasons = [];
    for await (const { event } of client.executions.executeStream({})) {
      assert(event.case === "failed");
      reasons.push(event.value.status?.details.map((detail) => anyUnpack(detail, ErrorInfoSchema)?.reason));
    }
    assert.deepEqual(reasons, [["WORKFLOW_FAILED"]]);
  });
}

test("each attempt asks for a token", async () => {
  const sent: (string | null)[] = [];
  const getExecution = (_: unknown, { requestHeader }: { requestHeader: Headers }) => {
    sent.push(requestHeader.get("authorization"));
    if (sent.length === 1) {
      throw new ConnectError("away", Code.Unavailable);
    }
    return {};
  };
  const token = () => `t${sent.length + 1}`;
  const client = clientWith({ executions: { getExecution } }, transportOptions({ token }, { initialDelayMs: 1 }));
  await client.executions.getExecution({});
  assert.deepEqual(sent, ["Bearer t1", "Bearer t2"]);
});
