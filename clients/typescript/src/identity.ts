import type { Interceptor } from "@connectrpc/connect";

/** Who calls: what the organization's policy asks for. */
export interface Identity {
  /** Session token, or what returns one: it is asked once a call, for such tokens live for a minute. */
  readonly token?: string | (() => string | Promise<string>);
  /** API key, sent as `x-api-key`. */
  readonly apiKey?: string;
  /** The organization's id, sent as `x-tenant-id`. */
  readonly tenant?: string;
}

/**
 * Returns an interceptor that presents an identity on each call. A header that the call itself gives goes first;
 * what the token's function throws, the call throws.
 */
export function identity({ token, apiKey, tenant }: Identity): Interceptor {
  return (next) => async (request) => {
    // A copy, for a call that is repeated wants a token of its own.
    const header = new Headers(request.header);
    if (token !== undefined && !header.has("authorization")) {
      header.set("authorization", `Bearer ${typeof token === "string" ? token : await token()}`);
    }
    if (apiKey !== undefined && !header.has("x-api-key")) {
      header.set("x-api-key", apiKey);
    }
    if (tenant !== undefined && !header.has("x-tenant-id")) {
      header.set("x-tenant-id", tenant);
    }
    return next({ ...request, header });
  };
}
