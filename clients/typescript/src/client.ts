import { createClient, type Client, type Transport } from "@connectrpc/connect";

import { ApiKeyService } from "./gen/n8ngateway/v1/api_key_service_pb.js";
import { CreditService } from "./gen/n8ngateway/v1/credit_service_pb.js";
import { ExecutionService } from "./gen/n8ngateway/v1/execution_service_pb.js";
import { HealthService } from "./gen/n8ngateway/v1/health_service_pb.js";
import { InternalService } from "./gen/n8ngateway/v1/internal_service_pb.js";
import { OrganizationService } from "./gen/n8ngateway/v1/organization_service_pb.js";
import { WebhookService } from "./gen/n8ngateway/v1/webhook_service_pb.js";
import { WorkflowService } from "./gen/n8ngateway/v1/workflow_service_pb.js";

/** Every service of the gateway. Who wants a smaller bundle takes `createClient` and one service. */
export interface GatewayClient {
  readonly organizations: Client<typeof OrganizationService>;
  readonly apiKeys: Client<typeof ApiKeyService>;
  readonly credits: Client<typeof CreditService>;
  readonly workflows: Client<typeof WorkflowService>;
  readonly executions: Client<typeof ExecutionService>;
  readonly webhooks: Client<typeof WebhookService>;
  readonly internal: Client<typeof InternalService>;
  readonly health: Client<typeof HealthService>;
}

/** Returns the services on a transport of `@connectrpc/connect-node` or `@connectrpc/connect-web`. */
export function createGatewayClient(transport: Transport): GatewayClient {
  return {
    organizations: createClient(OrganizationService, transport),
    apiKeys: createClient(ApiKeyService, transport),
    credits: createClient(CreditService, transport),
    workflows: createClient(WorkflowService, transport),
    executions: createClient(ExecutionService, transport),
    webhooks: createClient(WebhookService, transport),
    internal: createClient(InternalService, transport),
    health: createClient(HealthService, transport),
  };
}
