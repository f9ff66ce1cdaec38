package n8ngateway

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
)

// TokenSource returns a session token. It is asked once a call, for such tokens live for a minute; its error is the
// call's.
type TokenSource func(context.Context) (string, error)

// WithToken presents a session token that does not change.
func WithToken(token string) Option {
	return WithTokenSource(func(context.Context) (string, error) { return token, nil })
}

// WithTokenSource presents a session token that is asked for with each call.
func WithTokenSource(source TokenSource) Option {
	return func(s *settings) { s.identity.token = source }
}

// WithAPIKey presents an API key, as x-api-key.
func WithAPIKey(key string) Option {
	return func(s *settings) { s.identity.apiKey = key }
}

// WithTenant names the organization by its id, as x-tenant-id.
func WithTenant(id string) Option {
	return func(s *settings) { s.identity.tenant = id }
}

type identity struct {
	token  TokenSource
	apiKey string
	tenant string
}

// present adds the headers that the call itself does not give.
func (i identity) present(ctx context.Context, header http.Header) error {
	if i.token != nil && header.Get("Authorization") == "" {
		token, err := i.token(ctx)
		if err != nil {
			return err
		}
		header.Set("Authorization", "Bearer "+token)
	}
	if i.apiKey != "" && header.Get("X-Api-Key") == "" {
		header.Set("X-Api-Key", i.apiKey)
	}
	if i.tenant != "" && header.Get("X-Tenant-Id") == "" {
		header.Set("X-Tenant-Id", i.tenant)
	}
	return nil
}

type identityInterceptor struct{ identity identity }

func (i *identityInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		own := request.Header().Get("Authorization") != ""
		if err := i.identity.present(ctx, request.Header()); err != nil {
			return nil, err
		}
		response, err := next(ctx, request)
		if !own {
			// A repeated call has the same headers, and wants a token of its own.
			request.Header().Del("Authorization")
		}
		return response, err
	}
}

func (i *identityInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		return &identifiedConn{StreamingClientConn: next(ctx, spec), ctx: ctx, identity: i.identity}
	}
}

func (i *identityInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// identifiedConn presents the identity when the request leaves, after the call's own headers are known. The services'
// streams are server streams, so that is one message.
type identifiedConn struct {
	connect.StreamingClientConn
	ctx      context.Context
	identity identity
}

func (c *identifiedConn) Send(message any) error {
	if err := c.identity.present(c.ctx, c.RequestHeader()); err != nil {
		return err
	}
	return c.StreamingClientConn.Send(message)
}
