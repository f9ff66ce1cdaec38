import { createRegistry, type Registry } from "@bufbuild/protobuf";
import type { Interceptor } from "@connectrpc/connect";

import { file_google_rpc_error_details } from "./gen/google/rpc/error_details_pb.js";
import { identity, type Identity } from "./identity.js";
import { retry, type RetryPolicy } from "./retry.js";

/** What the gateway's clients want of a transport, of whichever protocol. */
export interface TransportOptions {
  readonly interceptors: Interceptor[];
  /** JSON names the types of error details, which have to be known to be read; binary can carry any. */
  readonly useBinaryFormat: boolean;
  readonly jsonOptions: { readonly registry: Registry };
}

/** Returns the options of a transport, to be spread into its own, for calls of `caller` with retries. */
export function transportOptions(caller: Identity = {}, policy: Partial<RetryPolicy> = {}): TransportOptions {
  return {
    // Retries come first, so that each attempt asks for a token of its own.
    interceptors: [retry(policy), identity(caller)],
    useBinaryFormat: true,
    jsonOptions: { registry: createRegistry(file_google_rpc_error_details) },
  };
}
