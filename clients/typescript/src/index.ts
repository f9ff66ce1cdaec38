/**
 * Client of n8n-gateway for node and browsers.
 *
 * `createGatewayClient` carries the services of a transport, which is made with `transportOptions`: identity, retries
 * and what it takes to read errors. `follow` reads a run to its end and tells where its stream broke; `errorInfo`
 * reads what the gateway says about a call that failed. Messages are in `n8n-gateway-client/v1/…`, one module a
 * proto file.
 */
export { createGatewayClient, type GatewayClient } from "./client.js";
export { errorInfo, type ErrorInfo, type FieldViolation } from "./errors.js";
export { follow, type Break, type FollowOptions, type OnBreak } from "./follow.js";
export { identity, type Identity } from "./identity.js";
export { transportOptions, type TransportOptions } from "./options.js";
export { retry, type RetryPolicy } from "./retry.js";
