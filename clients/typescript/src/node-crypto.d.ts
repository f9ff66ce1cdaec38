/** The little of node that signatures need; with all of node's types, others here could take what no browser has. */
declare module "node:crypto" {
  interface Digest {
    update(data: Uint8Array | string): this;
    digest(encoding: "hex"): string;
  }
  export function createHash(algorithm: "sha256"): Digest;
  export function createHmac(algorithm: "sha256", key: string): Digest;
  export function randomUUID(): string;
}
