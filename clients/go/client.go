// Package n8ngateway calls n8n-gateway over Connect, gRPC or gRPC-Web: every service with the caller's identity on
// each call, retries where they are safe, and runs that can be picked up where their stream broke.
//
// Messages are in n8ngateway/v1, and the services' own clients in n8ngateway/v1/n8ngatewayv1connect.
package n8ngateway

import (
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"n8ngateway/v1/n8ngatewayv1connect"
)

// Client carries every service of the gateway. It is safe for concurrent use.
type Client struct {
	Organizations n8ngatewayv1connect.OrganizationServiceClient
	APIKeys       n8ngatewayv1connect.ApiKeyServiceClient
	Credits       n8ngatewayv1connect.CreditServiceClient
	Workflows     n8ngatewayv1connect.WorkflowServiceClient
	Executions    n8ngatewayv1connect.ExecutionServiceClient
	Webhooks      n8ngatewayv1connect.WebhookServiceClient
	Internal      n8ngatewayv1connect.InternalServiceClient
	Health        n8ngatewayv1connect.HealthServiceClient
}

type settings struct {
	identity   identity
	signer     *Signer
	retry      RetryPolicy
	httpClient connect.HTTPClient
	grpc       bool
	connect    []connect.ClientOption
}

// Option is a choice about a Client.
type Option func(*settings)

// New returns a client of the gateway at baseURL, such as "https://gateway.example.com". It speaks Connect unless
// WithGRPC says otherwise.
func New(baseURL string, options ...Option) *Client {
	chosen := settings{retry: DefaultRetryPolicy}
	for _, option := range options {
		option(&chosen)
	}
	if chosen.httpClient == nil {
		chosen.httpClient = newHTTPClient(chosen.grpc && strings.HasPrefix(baseURL, "http://"))
	}
	if chosen.signer != nil {
		chosen.httpClient = &signingClient{chosen.httpClient, chosen.signer}
	}
	// Retries come first, so that each attempt asks for a token of its own.
	interceptors := connect.WithInterceptors(retryInterceptor(chosen.retry), &identityInterceptor{chosen.identity})
	http, all := chosen.httpClient, append([]connect.ClientOption{interceptors}, chosen.connect...)
	return &Client{
		Organizations: n8ngatewayv1connect.NewOrganizationServiceClient(http, baseURL, all...),
		APIKeys:       n8ngatewayv1connect.NewApiKeyServiceClient(http, baseURL, all...),
		Credits:       n8ngatewayv1connect.NewCreditServiceClient(http, baseURL, all...),
		Workflows:     n8ngatewayv1connect.NewWorkflowServiceClient(http, baseURL, all...),
		Executions:    n8ngatewayv1connect.NewExecutionServiceClient(http, baseURL, all...),
		Webhooks:      n8ngatewayv1connect.NewWebhookServiceClient(http, baseURL, all...),
		Internal:      n8ngatewayv1connect.NewInternalServiceClient(http, baseURL, all...),
		Health:        n8ngatewayv1connect.NewHealthServiceClient(http, baseURL, all...),
	}
}

// WithGRPC makes the client speak gRPC, over HTTP/2 also where the URL has no TLS.
func WithGRPC() Option {
	return func(s *settings) {
		s.grpc = true
		s.connect = append(s.connect, connect.WithGRPC())
	}
}

// WithConnectOptions passes on connect-go's own options, such as connect.WithGRPCWeb.
func WithConnectOptions(options ...connect.ClientOption) Option {
	return func(s *settings) { s.connect = append(s.connect, options...) }
}

// WithHTTPClient replaces the HTTP client, for example for a private authority or a proxy.
func WithHTTPClient(client connect.HTTPClient) Option {
	return func(s *settings) { s.httpClient = client }
}

// newHTTPClient returns a client without a total timeout, which would cut streams: contexts bound calls.
func newHTTPClient(onlyHTTP2 bool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if onlyHTTP2 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: transport}
}
