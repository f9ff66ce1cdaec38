import { MethodOptions_IdempotencyLevel as IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { Code, type Interceptor, type StreamRequest, type UnaryRequest } from "@connectrpc/connect";

import { errorInfo } from "./errors.js";

/** How often and when a call that is safe to repeat is repeated. */
export interface RetryPolicy {
  /** Calls in all, the first included. */
  readonly attempts: number;
  /** Pause before the second call; it doubles with each further one, and half of it is left to chance. */
  readonly initialDelayMs: number;
  /** Longest pause. A gateway that asks for a longer one is not called again. */
  readonly maxDelayMs: number;
}

const DEFAULT: RetryPolicy = { attempts: 4, initialDelayMs: 100, maxDelayMs: 10_000 };

/**
 * Returns an interceptor that repeats unary calls which end as UNAVAILABLE, when that cannot do anything twice:
 * methods without side effects, idempotent ones, and those that were given an idempotency key. It pauses as long
 * as the gateway asks (RetryInfo). Streams are not repeated: see `follow`.
 */
export function retry(policy: Partial<RetryPolicy> = {}): Interceptor {
  const { attempts, initialDelayMs, maxDelayMs } = { ...DEFAULT, ...policy };
  return (next) => async (request) => {
    const most = isSafe(request) ? attempts : 1;
    for (let attempt = 1; ; attempt++) {
      try {
        return await next(request);
      } catch (error) {
        const { code, retryAfterMs } = errorInfo(error);
        const backoff = Math.min(initialDelayMs * 2 ** (attempt - 1), maxDelayMs);
        const delay = retryAfterMs ?? backoff * (0.5 + Math.random() / 2);
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

/** Resolves after a time; rejects with the signal's reason as soon as the call is cancelled or its time is up. */
function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal.aborted) {
      stop();
    } else {
      signal.addEventListener("abort", stop, { once: true });
    }
  });
}
