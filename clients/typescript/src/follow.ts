import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type CallOptions, type Client } from "@connectrpc/connect";

import { backoff, DEFAULT_BACKOFF, pause } from "./backoff.js";
import { errorInfo } from "./errors.js";
import type { ExecutionEvent } from "./gen/n8ngateway/v1/execution_event_pb.js";
import type { ExecuteStreamRequestSchema, ExecutionService } from "./gen/n8ngateway/v1/execution_service_pb.js";

/** Where a stream of events broke; the run itself goes on. */
export interface Break {
  readonly executionId: string;
  /** Sequence of the last event that arrived: what WatchExecution resumes after. */
  readonly lastSequence: number;
  /** 1 for the first break since an event arrived, 2 when the resumed stream broke without a new one, … */
  readonly attempt: number;
  readonly error: ConnectError;
}

type Events = AsyncIterable<ExecutionEvent>;

/** Returns the events to go on with, or nothing to give up. */
export type OnBreak = (where: Break) => Events | undefined | Promise<Events | undefined>;

export interface FollowOptions extends CallOptions {
  /** Called when the stream breaks; without it, or when it returns nothing, the break is thrown. */
  readonly onBreak?: OnBreak;
}

/**
 * Runs a workflow with ExecuteStream and yields its events to the last one, each once.
 *
 * A stream that breaks before that is handed to `onBreak`, and what it returns is read on from there; events that
 * it repeats are left out. When that breaks too before a new event, there is a pause before `onBreak` is called
 * again, longer each time. What the gateway itself refuses is no break, and is thrown as it is; so are an error
 * before the first event and the one that a failed run ends with. Leaving the loop ends the call, but not the run.
 */
export async function* follow(
  executions: Pick<Client<typeof ExecutionService>, "executeStream">,
  request: MessageInitShape<typeof ExecuteStreamRequestSchema>,
  { onBreak, signal, ...options }: FollowOptions = {},
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const left = new AbortController();
  const either = signal ? AbortSignal.any([signal, left.signal]) : left.signal;
  let events: Events | undefined = executions.executeStream(request, { ...options, signal: either });
  let last: ExecutionEvent | undefined;
  try {
    for (let attempt = 1; ; attempt++) {
      let error = new ConnectError("the stream ended before the run did", Code.Unavailable);
      try {
        for await (const event of events) {
          if (last === undefined || event.sequence > last.sequence) {
            last = event;
            attempt = 1;
            yield event;
          }
        }
      } catch (thrown) {
        error = ConnectError.from(thrown);
        if (last === undefined || isEnd(last) || signal?.aborted || !isBreak(error)) {
          throw error;
        }
      }
      if (last === undefined) {
        throw error;
      }
      if (isEnd(last)) {
        return;
      }
      if (attempt > 1 && onBreak) {
        await pause(backoff(attempt - 1, DEFAULT_BACKOFF), either);
      }
      const { executionId, sequence: lastSequence } = last;
      events = await onBreak?.({ executionId, lastSequence, attempt, error });
      if (events === undefined) {
        throw error;
      }
    }
  } finally {
    left.abort();
  }
}

/** The gateway's own errors have a reason; of these only its being away is worth another attempt. */
function isBreak(error: ConnectError): boolean {
  const { code, reason } = errorInfo(error);
  return code === Code.Unavailable || (reason === "" && code !== Code.DeadlineExceeded);
}

function isEnd({ event }: ExecutionEvent): boolean {
  return event.case === "completed" || event.case === "failed";
}
