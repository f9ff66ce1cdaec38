import { MethodOptions_IdempotencyLevel as IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { Code, type Interceptor, type StreamRequest, type UnaryRequest } from "@connectrpc/connect";

import { backoff, DEFAULT_BACKOFF, pause, type Backoff } from "./backoff.js";
import { errorInfo } from "./errors.js";

/** How often and when a call that is safe to repeat is repeated. */
export interface RetryPolicy extends Backoff {
  /** Calls in all, the first included. */
  readonly attempts: number;
}

/**
 * Returns an interceptor that repeats unary calls which end as UNAVAILABLE, when that cannot do anything twice:
 * methods without side effects, idempotent ones, and those that were given an idempotency key. It pauses as long
 * as the gateway asks (RetryInfo). Streams are not repeated: see `follow`.
 */
export function retry(policy: Partial<RetryPolicy> = {}): Interceptor {
  const { attempts, initialDelayMs, maxDelayMs } = { attempts: 4, ...DEFAULT_BACKOFF, ...policy };
  return (next) => async (request) => {
    const most = isSafe(request) ? attempts : 1;
    for (let attempt = 1; ; attempt++) {
      try {
        return await next(request);
      } catch (error) {
        const { code, retryAfterMs } = errorInfo(error);
        const delay = retryAfterMs ?? backoff(attempt, { initialDelayMs, maxDelayMs });
        if (code !== Code.Unavailable || attempt >= most || delay > maxDelayMs) {
          throw error;
        }
        await pause(delay, request.signal);
      }
    }
  };
}

function isSafe(request: UnaryRequest | StreamRequest): boolean {
  if (request.stream) {
    return false;
  }
  return request.method.idempotency !== IdempotencyLevel.IDEMPOTENCY_UNKNOWN || hasIdempotencyKey(request);
}

/** The header counts only where the method knows a key at all. */
function hasIdempotencyKey({ message, method, header }: UnaryRequest): boolean {
  const field = method.input.fields.find(({ name }) => name === "idempotency_key");
  if (field === undefined) {
    return false;
  }
  const key = (message as unknown as Record<string, unknown>)[field.localName];
  return (key !== undefined && key !== "") || Boolean(header.get("idempotency-key"));
}
