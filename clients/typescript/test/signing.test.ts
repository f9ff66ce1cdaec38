import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { createServer as createHttp2Server, type Http2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";

import { Code, ConnectError, type ConnectRouter, type Transport } from "@connectrpc/connect";
import {
  connectNodeAdapter,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { createGatewayClient } from "n8n-gateway-client";
import { signedHeaders, signedTransportOptions } from "n8n-gateway-client/signing";
import { ExecutionService } from "n8n-gateway-client/v1/execution_service";

const key = { apiKey: "gw_test_abcdefghijklmnop_secretpart", clientSecret: "gw_secret_of_the_tests" };

interface Vector {
  readonly name: string;
  readonly version: number;
  readonly tenant: string;
  readonly http_method: string;
  readonly target: string;
  readonly content_type: string;
  readonly timestamp: string;
  readonly nonce: string;
  readonly message_base64: string;
  readonly x_signature: string;
}

const file = JSON.parse(readFileSync(new URL("../../../../tests/data/signatures.json", import.meta.url), "utf8"));

for (const vector of (file.vectors as Vector[]).filter(({ version }) => version === 2)) {
  test(`the vector: ${vector.name}`, () => {
    const headers = signedHeaders(
      { apiKey: file.api_key, clientSecret: file.client_secret },
      {
        httpMethod: vector.http_method,
        target: vector.target,
        contentType: vector.content_type,
        message: Buffer.from(vector.message_base64, "base64"),
        tenant: vector.tenant,
        timestamp: vector.timestamp,
        nonce: vector.nonce,
      },
    );
    assert.equal(headers["x-signature"], vector.x_signature);
  });
}

/** What arrived, with its signature held against its very bytes. */
const arrived: { readonly holds: boolean; readonly nonce: string; readonly tenant: string }[] = [];
let failures = 0;

function note(headers: IncomingMessage["headers"], target: string, body: Buffer): void {
  const header = (name: string) => String(headers[name] ?? "");
  let contentType = header("content-type");
  const framed = contentType.startsWith("application/grpc") || contentType.startsWith("application/connect+");
  if (contentType.startsWith("application/grpc") && !contentType.startsWith("application/grpc-web")) {
    contentType = "application/grpc";
  }
  const digest = createHash("sha256").update(framed ? body.subarray(5) : body).digest("hex");
  const lines = ["GW2-HMAC-SHA256", header("x-timestamp"), header("x-nonce"), header("x-tenant-id")];
  lines.push("gw_test_abcdefghijklmnop", "POST", target, contentType, digest);
  const expected = createHmac("sha256", key.clientSecret).update(lines.join("\n")).digest("hex");
  arrived.push({
    holds: header("x-signature") === `v2=${expected}` && header("x-api-key") === key.apiKey,
    nonce: header("x-nonce"),
    tenant: header("x-tenant-id"),
  });
}

const routes = ({ service }: ConnectRouter) =>
  service(ExecutionService, {
    execute: () => ({ success: true }),
    getExecution: () => {
      if (failures-- > 0) {
        throw new ConnectError("away", Code.Unavailable);
      }
      return {};
    },
    executeStream: async function* () {
      yield { sequence: 1 };
    },
  });

const adapter = connectNodeAdapter({ routes });

/** Notes the bytes of a request on their way to the handlers. */
function handler(request: Parameters<typeof adapter>[0], response: Parameters<typeof adapter>[1]): void {
  const chunks: Buffer[] = [];
  const push = request.push.bind(request);
  let ended = false;
  request.push = (chunk: Buffer | null) => {
    if (chunk !== null) {
      chunks.push(Buffer.from(chunk));
    } else if (!ended) {
      // HTTP/2 tells of the end more than once.
      ended = true;
      note(request.headers, request.url ?? "", Buffer.concat(chunks));
    }
    return push(chunk);
  };
  adapter(request, response);
}

async function listening(server: Server | Http2Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const url = await listening(createServer(handler));
const http2Server = createHttp2Server(handler);
const sessions = new Set<{ destroy(): void }>();
http2Server.on("session", (session) => sessions.add(session));
const http2Url = await listening(http2Server);
after(() => sessions.forEach((session) => session.destroy()));

const caller = { ...key, tenant: "o0" };
const options = signedTransportOptions(caller, { initialDelayMs: 1 });
const transports: Record<string, Transport> = {
  connect: createConnectTransport({ baseUrl: url, httpVersion: "1.1", ...options }),
  "connect json": createConnectTransport({ baseUrl: url, httpVersion: "1.1", ...options, useBinaryFormat: false }),
  "grpc-web": createGrpcWebTransport({ baseUrl: url, httpVersion: "1.1", ...options }),
  grpc: createGrpcTransport({ baseUrl: http2Url, ...options }),
};

for (const [name, transport] of Object.entries(transports)) {
  test(`every call is signed: ${name}`, async () => {
    arrived.length = 0;
    const client = createGatewayClient(transport);
    const metadata = Object.fromEntries(Array.from({ length: 50 }, (_, index) => [`k${index}`, "Grüße"]));
    assert.ok((await client.executions.execute({ metadata, data: { list: [1, 2.5, null] } })).success);
    for await (const event of client.executions.executeStream({ workflowId: "w" })) {
      assert.equal(event.sequence, 1);
    }
    assert.deepEqual(arrived.map(({ holds, tenant }) => [holds, tenant]), [[true, "o0"], [true, "o0"]]);
  });
}

test("each attempt is signed anew", async () => {
  arrived.length = 0;
  failures = 2;
  await createGatewayClient(transports["connect"]!).executions.getExecution({ id: "e" });
  assert.deepEqual(arrived.map(({ holds }) => holds), [true, true, true]);
  assert.equal(new Set(arrived.map(({ nonce }) => nonce)).size, 3);
});

test("a call that is signed already stays as it is", async () => {
  arrived.length = 0;
  const client = createGatewayClient(transports["connect"]!);
  await client.executions.execute({}, { headers: { "x-signature": "own" } });
  assert.deepEqual(arrived.map(({ holds, nonce }) => [holds, nonce]), [[false, ""]]);
});
