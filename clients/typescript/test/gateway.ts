import { createRouterTransport, type ServiceImpl, type Interceptor } from "@connectrpc/connect";
import { createGatewayClient, transportOptions, type GatewayClient, type TransportOptions } from "n8n-gateway-client";
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
  return clientWith(services, { interceptors });
}

/** The same with all options of a transport. */
export function clientWith(services: Services, options: Partial<TransportOptions>): GatewayClient {
  const transport = createRouterTransport(
    ({ service }) => {
      service(ExecutionService, services.executions ?? {});
      service(CreditService, services.credits ?? {});
      service(OrganizationService, services.organizations ?? {});
    },
    { transport: options, router: { jsonOptions: transportOptions().jsonOptions } },
  );
  return createGatewayClient(transport);
}
