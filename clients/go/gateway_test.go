package n8ngateway_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"

	"n8ngateway"
	v1 "n8ngateway/v1"
	"n8ngateway/v1/n8ngatewayv1connect"
)

// executions answers as a test says.
type executions struct {
	n8ngatewayv1connect.UnimplementedExecutionServiceHandler
	execute func(context.Context, *v1.ExecuteRequest) (*v1.ExecuteResponse, error)
	stream  func(context.Context, send) error
	watch   func(context.Context, *v1.WatchExecutionRequest, send) error
	unary   func() error
}

type send func(events ...*v1.ExecutionEvent) error

func (e *executions) Execute(ctx context.Context, request *v1.ExecuteRequest) (*v1.ExecuteResponse, error) {
	if e.execute == nil {
		return &v1.ExecuteResponse{}, e.unary()
	}
	return e.execute(ctx, request)
}

func (e *executions) StartExecution(context.Context, *v1.StartExecutionRequest) (*v1.StartExecutionResponse, error) {
	return &v1.StartExecutionResponse{}, e.unary()
}

func (e *executions) GetExecution(context.Context, *v1.GetExecutionRequest) (*v1.GetExecutionResponse, error) {
	return &v1.GetExecutionResponse{}, e.unary()
}

func (e *executions) CancelExecution(context.Context, *v1.CancelExecutionRequest) (*v1.CancelExecutionResponse, error) {
	return &v1.CancelExecutionResponse{}, e.unary()
}

func (e *executions) ExecuteStream(
	ctx context.Context, _ *v1.ExecuteStreamRequest, stream *connect.ServerStream[v1.ExecutionEvent],
) error {
	return e.stream(ctx, sendOn(stream))
}

func (e *executions) WatchExecution(
	ctx context.Context, request *v1.WatchExecutionRequest, stream *connect.ServerStream[v1.ExecutionEvent],
) error {
	return e.watch(ctx, request, sendOn(stream))
}

func sendOn(stream *connect.ServerStream[v1.ExecutionEvent]) send {
	return func(events ...*v1.ExecutionEvent) error {
		for _, event := range events {
			if err := stream.Send(event); err != nil {
				return err
			}
		}
		return nil
	}
}

// serve starts a server that speaks Connect, gRPC and gRPC-Web, over HTTP/1.1 and HTTP/2 without TLS.
func serve(t *testing.T, service *executions, options ...n8ngateway.Option) *n8ngateway.Client {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(n8ngatewayv1connect.NewExecutionServiceHandler(service))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return n8ngateway.New(server.URL, options...)
}
