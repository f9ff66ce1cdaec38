import { createRouterTransport, type ServiceImpl, type Interceptor } from "@connectrpc/connect";
import { createGatewayClient, type GatewayClient } from "n8n-gateway-client";
import { ExecutionService } from "n8n-gateway-client/v1/execution_service";
import { CreditService } from "n8n-gateway-client/v1/credit_service";
import { OrganizationService } from "n8n-gateway-client/v1/organization_service";

interface Services {
  readonly executions?: Partial<ServiceImpl<typeof ExecutionService>>;
  readonly credits?: Partial<ServiceImpl<typeof CreditService>>;
  readonly organizations?: Partial<ServiceImpl<typeof OrganizationService>>;
}

/** A client whose transport runs a server in this process. */
export function clientOf(services: Services, ...interceptors: Interceptor[]): GatewayClient {
  const transport = createRouterTransport(
    ({ service }) => {
      service(ExecutionService, services.executions ?? {});
      service(CreditService, services.credits ?? {});
      service(OrganizationService, services.organizations ?? {});
    },
    { transport: { interceptors } },
  );
  return createGatewayClient(transport);
}
