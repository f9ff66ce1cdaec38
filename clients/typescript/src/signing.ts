/**
 * Signatures of requests by an API key's client secret (version 2), for servers that run node.
 *
 * This module is not for browsers, and needs node's crypto so that none takes it: whoever opens a page could read
 * the client secret in it. A page calls with its user's session token.
 */
import { createHash, createHmac, randomUUID } from "node:crypto";

import { toBinary, toJsonString, type Message } from "@bufbuild/protobuf";
import type { Interceptor, StreamRequest, UnaryRequest } from "@connectrpc/connect";

import type { Identity } from "./identity.js";
import { transportOptions, type TransportOptions } from "./options.js";
import type { RetryPolicy } from "./retry.js";

/** An API key, and the client secret that was shown with it. */
export interface SigningKey {
  readonly apiKey: string;
  readonly clientSecret: string;
}

/** What a signature covers. */
export interface SignedParts {
  readonly httpMethod: string;
  /** Path and query as sent over REST, `/package.Service/Method` elsewhere. */
  readonly target: string;
  /** As sent; empty without one, and `application/grpc` over gRPC. */
  readonly contentType: string;
  /** The body, before it is compressed and framed. */
  readonly message: Uint8Array | string;
  /** `x-tenant-id` as sent. */
  readonly tenant?: string;
  /** Seconds since 1970; now when absent. */
  readonly timestamp?: string;
  /** A random one when absent. */
  readonly nonce?: string;
}

/** Returns the headers of a signed request, `x-api-key` and `x-tenant-id` among them, for any HTTP client. */
export function signedHeaders({ apiKey, clientSecret }: SigningKey, parts: SignedParts): Record<string, string> {
  const timestamp = parts.timestamp ?? Math.floor(Date.now() / 1000).toString();
  const nonce = parts.nonce ?? randomUUID();
  const text = [
    "GW2-HMAC-SHA256",
    timestamp,
    nonce,
    parts.tenant ?? "",
    apiKey.slice(0, Math.max(apiKey.lastIndexOf("_"), 0)),
    parts.httpMethod,
    parts.target,
    parts.contentType,
    createHash("sha256").update(parts.message).digest("hex"),
  ].join("\n");
  const signature = createHmac("sha256", clientSecret).update(text).digest("hex");
  return {
    "x-api-key": apiKey,
    ...(parts.tenant ? { "x-tenant-id": parts.tenant } : {}),
    "x-timestamp": timestamp,
    "x-nonce": nonce,
    "x-signature": `v2=${signature}`,
  };
}

/**
 * Returns an interceptor that signs each call; it comes last, after the one that presents the identity. `jsonOptions`
 * are those of the transport, where it speaks JSON. It does not go with `useHttpGet`.
 */
export function signing(key: SigningKey, { jsonOptions }: Partial<TransportOptions> = {}): Interceptor {
  const serialize = (request: UnaryRequest | StreamRequest, message: Message): Uint8Array | string =>
    contentTypeOf(request).endsWith("json")
      ? toJsonString(request.method.input, message, jsonOptions)
      : toBinary(request.method.input, message);
  const signed = (request: UnaryRequest | StreamRequest, message: Message): Headers => {
    // A copy, for a call that is repeated wants a signature of its own.
    const header = new Headers(request.header);
    const headers = signedHeaders(key, {
      httpMethod: "POST",
      target: `/${request.service.typeName}/${request.method.name}`,
      contentType: contentTypeOf(request),
      message: serialize(request, message),
      tenant: header.get("x-tenant-id") ?? "",
    });
    Object.entries(headers).forEach(([name, value]) => header.set(name, value));
    return header;
  };
  return (next) => async (request) => {
    if (request.header.has("x-signature")) {
      return next(request);
    }
    if (!request.stream) {
      return next({ ...request, header: signed(request, request.message) });
    }
    const messages: Message[] = [];
    for await (const message of request.message) {
      messages.push(message);
    }
    const [message] = messages;
    if (message === undefined || messages.length > 1) {
      throw new TypeError("only calls with one request message can be signed");
    }
    return next({ ...request, header: signed(request, message), message: once(message) as typeof request.message });
  };
}

/** Returns `transportOptions` whose calls are signed; `caller` may also have a token, whose user then acts. */
export function signedTransportOptions(
  caller: Omit<Identity, "apiKey"> & SigningKey,
  policy: Partial<RetryPolicy> = {},
): TransportOptions {
  const options = transportOptions(caller, policy);
  return { ...options, interceptors: [...options.interceptors, signing(caller, options)] };
}

/** gRPC's own has one name, whatever its encoding: the gateway is not told of more. */
function contentTypeOf({ header }: UnaryRequest | StreamRequest): string {
  const sent = header.get("content-type") ?? "";
  return sent.startsWith("application/grpc") && !sent.startsWith("application/grpc-web") ? "application/grpc" : sent;
}

async function* once<T>(message: T): AsyncIterable<T> {
  yield message;
}
