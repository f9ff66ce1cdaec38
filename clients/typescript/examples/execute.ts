/**
 * Runs a workflow and waits for its answer, then runs another one and prints its events as they arrive.
 *
 * Against `n8n-gateway dev --ready-file ready.json`:
 *
 *     node build/examples/execute.js --ready-file ready.json
 *
 * Against any gateway, with one workflow for both:
 *
 *     node build/examples/execute.js --url https://gateway.example.com --token "$TOKEN" --workflow 01939f1e-…
 *
 * With `--signed` an API key calls in place of the token and signs: the ready file's, or that of the environment's
 * N8N_GATEWAY_API_KEY and N8N_GATEWAY_CLIENT_SECRET.
 *
 * `--protocol` is connect (default), grpc-web or grpc. The exit code is 0 when both runs succeeded, 1 when a call
 * or a run failed, 2 when the arguments are wrong.
 */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { toJson } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import {
  createGatewayClient,
  errorInfo,
  follow,
  transportOptions,
  type GatewayClient,
  type TransportOptions,
} from "n8n-gateway-client";
import { signedTransportOptions } from "n8n-gateway-client/signing";
import { ExecutionChunkSchema, type ExecutionEvent } from "n8n-gateway-client/v1/execution_event";
import { ExecuteResponseSchema } from "n8n-gateway-client/v1/execution_service";

class UsageError extends Error {}

class RunError extends Error {}

interface Place {
  readonly url: string;
  readonly options: TransportOptions;
  readonly echo: string;
  readonly stream: string;
}

const PROTOCOLS: Record<string, (place: Place) => Transport> = {
  connect: (place) =>
    createConnectTransport({ baseUrl: place.url, httpVersion: "1.1", ...place.options }),
  "grpc-web": (place) =>
    createGrpcWebTransport({ baseUrl: place.url, httpVersion: "1.1", ...place.options }),
  grpc: (place) => createGrpcTransport({ baseUrl: place.url, ...place.options }),
};

async function main(): Promise<number> {
  try {
    const { place, protocol } = findPlace();
    const createTransport = PROTOCOLS[protocol];
    if (createTransport === undefined) {
      throw new UsageError(`--protocol is one of ${Object.keys(PROTOCOLS).join(", ")}`);
    }
    const client = createGatewayClient(createTransport(place));
    await execute(client, place.echo);
    await executeStream(client, place.stream);
    return 0;
  } catch (error) {
    return explain(error);
  }
}

/** Runs a workflow, waits, and prints the answer. The key makes it safe to repeat the call. */
async function execute(client: GatewayClient, workflowId: string): Promise<void> {
  const answer = await client.executions.execute(
    { workflowId, data: { message: "hello" }, metadata: { source: "example" }, idempotencyKey: randomUUID() },
    { timeoutMs: 60_000 },
  );
  console.log(JSON.stringify(toJson(ExecuteResponseSchema, answer, { useProtoFieldName: true }), null, 2));
  if (!answer.success) {
    throw new RunError(`execution ${answer.executionId} ended as ${answer.status}`);
  }
}

/** Runs a workflow and prints each event when it arrives, with the seconds since the call. */
async function executeStream(client: GatewayClient, workflowId: string): Promise<void> {
  const started = performance.now();
  const request = { workflowId, data: { message: "hello" }, metadata: { source: "example" } };
  const events = follow(client.executions, request, {
    timeoutMs: 60_000,
    onBreak: ({ executionId, lastSequence, attempt }) => {
      console.error(`the stream of ${executionId} broke after event ${lastSequence}`);
      return attempt > 3
        ? undefined
        : client.executions.watchExecution({ executionId, afterSequence: lastSequence });
    },
  });
  for await (const event of events) {
    const seconds = ((performance.now() - started) / 1000).toFixed(3);
    console.log(`+${seconds}s  ${String(event.sequence).padStart(3)}  ${describe(event)}`);
  }
}

function describe({ event }: ExecutionEvent): string {
  switch (event.case) {
    case "chunk": {
      const content = toJson(ExecutionChunkSchema, event.value);
      const { text, json, data } = content as { text?: string; json?: unknown; data?: string };
      return `chunk       ${event.value.nodeName}: ${JSON.stringify(json ?? text ?? data)}`;
    }
    case "completed":
      return `completed   ${event.value.creditsUsed} credits, ${event.value.executionTimeMs} ms`;
    case "failed":
      return `failed      ${event.value.status?.message}`;
    default:
      return String(event.case);
  }
}

function findPlace(): { place: Place; protocol: string } {
  const { values } = parseArguments();
  const { token, workflow, protocol, signed } = values;
  if (values["ready-file"] !== undefined) {
    return { place: readReadyFile(values["ready-file"], protocol, signed), protocol };
  }
  const { N8N_GATEWAY_API_KEY: apiKey, N8N_GATEWAY_CLIENT_SECRET: clientSecret } = process.env;
  const options = optionsOf({ token, apiKey, clientSecret }, signed);
  if (values.url === undefined || options === undefined || workflow === undefined) {
    const needed = signed ? "N8N_GATEWAY_API_KEY and N8N_GATEWAY_CLIENT_SECRET in the environment" : "--token";
    throw new UsageError(`give --ready-file, or --url, --workflow and ${needed}`);
  }
  return { place: { url: values.url, options, echo: workflow, stream: workflow }, protocol };
}

type Known = Partial<Record<"token" | "apiKey" | "clientSecret" | "tenant", string | undefined>>;

/** Returns the options of a transport that calls as a token's user, or signed by an API key; nothing without one. */
function optionsOf(known: Known, signed: boolean): TransportOptions | undefined {
  const { token, apiKey, clientSecret, tenant } = known;
  const organization = tenant ? { tenant } : {};
  if (signed) {
    return apiKey && clientSecret ? signedTransportOptions({ apiKey, clientSecret, ...organization }) : undefined;
  }
  return token ? transportOptions({ token, ...organization }) : undefined;
}

function parseArguments() {
  try {
    return parseArgs({
      options: {
        "ready-file": { type: "string" },
        url: { type: "string" },
        token: { type: "string" },
        workflow: { type: "string" },
        signed: { type: "boolean", default: false },
        protocol: { type: "string", default: "connect" },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** Returns what `dev` has written; its doors are on this machine and without TLS. */
function readReadyFile(path: string, protocol: string, signed: boolean): Place {
  try {
    const ready = JSON.parse(readFileSync(path, "utf8"));
    const { token, api_key: apiKey, client_secret: clientSecret, organization_id: tenant } = ready;
    const options = optionsOf({ token, apiKey, clientSecret, tenant }, signed);
    if (options === undefined) {
      throw new Error("it holds no identity");
    }
    return {
      url: protocol === "grpc" ? `http://${ready.grpc_url}` : ready.http_url,
      options,
      echo: ready.workflows.echo,
      stream: ready.workflows.stream,
    };
  } catch (error) {
    throw new UsageError(`cannot read the ready file ${path}: ${(error as Error).message}`);
  }
}

function explain(error: unknown): number {
  if (error instanceof UsageError) {
    console.error(`execute.js: ${error.message}`);
    return 2;
  }
  if (error instanceof RunError) {
    console.error(`the run failed: ${error.message}`);
    return 1;
  }
  if (error instanceof ConnectError) {
    const { code, reason, message, fieldViolations } = errorInfo(error);
    console.error(`the call failed: ${Code[code]}${reason && ` (${reason})`}: ${message}`);
    for (const { field, description } of fieldViolations) {
      console.error(`  ${field}: ${description}`);
    }
    return 1;
  }
  throw error;
}

process.exitCode = await main();
