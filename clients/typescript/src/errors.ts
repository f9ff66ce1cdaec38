import { Code, ConnectError } from "@connectrpc/connect";
import { durationMs } from "@bufbuild/protobuf/wkt";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";

/** A field of the request that was refused, by its path, and why. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** A failed call: its status, and what the gateway tells machines about it (google.rpc.Status, AIP-193). */
export interface ErrorInfo {
  readonly code: Code;
  readonly message: string;
  /** Refines `code` and is stable, e.g. INSUFFICIENT_CREDITS; empty when the error is not the gateway's. */
  readonly reason: string;
  readonly domain: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly fieldViolations: readonly FieldViolation[];
  /** Milliseconds after which a retry may help; absent when the gateway does not say. */
  readonly retryAfterMs?: number;
  /** Finds the call in the gateway's log. */
  readonly requestId: string;
}

/**
 * Returns what an error that a call has thrown says. Details that are missing or cannot be read leave their
 * fields empty; `code` and `message` are always there.
 */
export function errorInfo(thrown: unknown): ErrorInfo {
  const error = ConnectError.from(thrown);
  const info = error.findDetails(ErrorInfoSchema)[0];
  const retryDelay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return {
    code: error.code,
    message: error.rawMessage,
    reason: info?.reason ?? "",
    domain: info?.domain ?? "",
    metadata: info?.metadata ?? {},
    fieldViolations: (error.findDetails(BadRequestSchema)[0]?.fieldViolations ?? []).map(
      ({ field, description }) => ({ field, description }),
    ),
    ...(retryDelay && { retryAfterMs: durationMs(retryDelay) }),
    requestId: error.findDetails(RequestInfoSchema)[0]?.requestId ?? "",
  };
}
