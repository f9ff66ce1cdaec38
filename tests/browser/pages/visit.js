import { toJson } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { createGatewayClient, errorInfo, follow, transportOptions } from "n8n-gateway-client";
import { ExecuteResponseSchema } from "n8n-gateway-client/v1/execution_service";

/** Offers the browser's driver `visit`, which does over a transport all that a page does, and tells what it saw. */
export function offer(createTransport, own = {}) {
  window.visit = async ({ url, token, workflows }) => {
    const options = transportOptions({ token: async () => token });
    const { executions } = createGatewayClient(createTransport({ baseUrl: url, ...options, ...own }));
    return {
      executed: await told(() => execute(executions, workflows.echo)),
      streamed: await told(() => stream(executions, workflows.gated)),
      refused: await told(() => execute(executions, "no-id")),
      failed: await told(() => stream(executions, workflows["stream-fail"])),
    };
  };
}

async function execute(executions, workflowId) {
  const answer = await executions.execute({ workflowId, data: { message: "hello ☃" } });
  return toJson(ExecuteResponseSchema, answer);
}

/** Tells the page's own server when the first chunk is here: only then does the workflow go on. */
async function stream(executions, workflowId) {
  const kinds = [];
  const texts = [];
  for await (const { event } of follow(executions, { workflowId })) {
    kinds.push(event.case);
    if (event.case === "chunk") {
      texts.push(event.value.content.value);
      await fetch("first-chunk", { method: "POST" });
    }
  }
  return { kinds, texts };
}

async function told(work) {
  try {
    return { value: await work() };
  } catch (error) {
    const { code, ...rest } = errorInfo(error);
    return { error: { code: Code[code], ...rest } };
  }
}
