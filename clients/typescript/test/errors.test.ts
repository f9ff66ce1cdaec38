import assert from "node:assert/strict";
import { test } from "node:test";

import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorInfo } from "n8n-gateway-client";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "n8n-gateway-client/google/rpc/error_details";

test("all details are read", () => {
  const violation = { field: "credits", description: "is too low" };
  const error = new ConnectError("No credits are left.", Code.FailedPrecondition, undefined, [
    { desc: ErrorInfoSchema, value: { reason: "INSUFFICIENT_CREDITS", domain: "n8n-gateway", metadata: { price: "3" } } },
    { desc: BadRequestSchema, value: { fieldViolations: [violation] } },
    { desc: RetryInfoSchema, value: { retryDelay: durationFromMs(1500) } },
    { desc: RequestInfoSchema, value: { requestId: "request-1" } },
  ]);
  assert.deepEqual(errorInfo(error), {
    code: Code.FailedPrecondition,
    message: "No credits are left.",
    reason: "INSUFFICIENT_CREDITS",
    domain: "n8n-gateway",
    metadata: { price: "3" },
    fieldViolations: [violation],
    retryAfterMs: 1500,
    requestId: "request-1",
  });
});

test("details that cannot be read leave their fields empty", () => {
  const error = new ConnectError("wrong", Code.Internal);
  error.details.push({ type: "google.rpc.ErrorInfo", value: new Uint8Array([255]) });
  assert.deepEqual(errorInfo(error), {
    code: Code.Internal,
    message: "wrong",
    reason: "",
    domain: "",
    metadata: {},
    fieldViolations: [],
    requestId: "",
  });
});

test("what is no error of a call is unknown", () => {
  assert.equal(errorInfo(new TypeError("oops")).code, Code.Unknown);
});
