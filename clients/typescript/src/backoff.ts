/** Pauses between attempts that grow. */
export interface Backoff {
  /** Pause before the second attempt; it doubles with each further one, and half of it is left to chance. */
  readonly initialDelayMs: number;
  /** Longest pause. A gateway that asks for a longer one is not called again. */
  readonly maxDelayMs: number;
}

export const DEFAULT_BACKOFF: Backoff = { initialDelayMs: 100, maxDelayMs: 10_000 };

/** Returns the pause in milliseconds after attempt 1, 2, … has failed. */
export function backoff(attempt: number, { initialDelayMs, maxDelayMs }: Backoff): number {
  return Math.min(initialDelayMs * 2 ** (attempt - 1), maxDelayMs) * (0.5 + Math.random() / 2);
}

/** Resolves after a time; rejects with the signal's reason as soon as the call is cancelled or its time is up. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
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
