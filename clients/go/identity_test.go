package n8ngateway_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	"n8ngateway"
	v1 "n8ngateway/v1"
)

var identityHeaders = []string{"authorization", "x-api-key", "x-tenant-id"}

func sentIdentity(ctx context.Context) map[string]string {
	info, _ := connect.CallInfoForHandlerContext(ctx)
	sent := map[string]string{}
	for _, name := range identityHeaders {
		for _, value := range info.RequestHeader().Values(name) {
			sent[name] += value
		}
	}
	return sent
}

// echo answers unary calls and streams with the identity that came.
func echo() *executions {
	return &executions{
		execute: func(ctx context.Context, _ *v1.ExecuteRequest) (*v1.ExecuteResponse, error) {
			return &v1.ExecuteResponse{Data: structpb.NewStringValue(fmt.Sprint(sentIdentity(ctx)))}, nil
		},
		stream: func(ctx context.Context, send send) error {
			text := &v1.ExecutionChunk_Text{Text: fmt.Sprint(sentIdentity(ctx))}
			chunk := &v1.ExecutionEvent_Chunk{Chunk: &v1.ExecutionChunk{Content: text}}
			return send(&v1.ExecutionEvent{Sequence: 1, Event: chunk}, completed(2))
		},
	}
}

func executed(ctx context.Context, client *n8ngateway.Client) (string, error) {
	answer, err := client.Executions.Execute(ctx, &v1.ExecuteRequest{})
	return answer.GetData().GetStringValue(), err
}

func streamed(ctx context.Context, client *n8ngateway.Client) (string, error) {
	for event, err := range n8ngateway.Follow(ctx, client.Executions, &v1.ExecuteStreamRequest{}, nil) {
		return event.GetChunk().GetText(), err
	}
	return "", errors.New("no event")
}

var calls = map[string]func(context.Context, *n8ngateway.Client) (string, error){"unary": executed, "stream": streamed}

func TestIdentity(t *testing.T) {
	all := map[string]string{"authorization": "Bearer t0", "x-api-key": "k0", "x-tenant-id": "o0"}
	options := []n8ngateway.Option{
		n8ngateway.WithToken("t0"), n8ngateway.WithAPIKey("k0"), n8ngateway.WithTenant("o0"),
	}
	cases := map[string]struct {
		options []n8ngateway.Option
		want    map[string]string
	}{
		"all":                {options, all},
		"all over gRPC":      {append(options, n8ngateway.WithGRPC()), all},
		"all over gRPC-Web":  {append(options, n8ngateway.WithConnectOptions(connect.WithGRPCWeb())), all},
		"no identity at all": {nil, map[string]string{}},
	}
	for name, each := range cases {
		for kind, call := range calls {
			t.Run(name+", "+kind, func(t *testing.T) {
				got, err := call(t.Context(), serve(t, echo(), each.options...))
				if err != nil || got != fmt.Sprint(each.want) {
					t.Errorf("sent %v, %v; want %v", got, err, each.want)
				}
			})
		}
	}
}

func TestTokenIsAskedForEachCall(t *testing.T) {
	count := 0
	source := func(context.Context) (string, error) {
		count++
		return fmt.Sprint("t", count), nil
	}
	client := serve(t, echo(), n8ngateway.WithTokenSource(source))
	for _, want := range []string{"t1", "t2"} {
		if got, _ := executed(t.Context(), client); got != "map[authorization:Bearer "+want+"]" {
			t.Errorf("sent %s; want %s", got, want)
		}
	}
}

func TestHeadersOfACallGoFirst(t *testing.T) {
	never := func(context.Context) (string, error) {
		t.Error("the token was asked for")
		return "", nil
	}
	client := serve(t, echo(), n8ngateway.WithTokenSource(never), n8ngateway.WithTenant("o0"))
	own := map[string]string{"authorization": "Bearer own", "x-tenant-id": "own"}
	for kind, call := range calls {
		ctx, info := connect.NewClientContext(t.Context())
		for name, value := range maps.All(own) {
			info.RequestHeader().Set(name, value)
		}
		if got, err := call(ctx, client); got != fmt.Sprint(own) {
			t.Errorf("%s: sent %s, %v; want %s", kind, got, err, own)
		}
	}
}

func TestErrorOfTheTokenIsTheCalls(t *testing.T) {
	signedOut := errors.New("signed out")
	client := serve(t, echo(), n8ngateway.WithTokenSource(func(context.Context) (string, error) { return "", signedOut }))
	for kind, call := range calls {
		if _, err := call(t.Context(), client); !errors.Is(err, signedOut) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestEachAttemptAsksForAToken(t *testing.T) {
	tokens, sent := 0, []string{}
	service := &executions{
		execute: func(ctx context.Context, _ *v1.ExecuteRequest) (*v1.ExecuteResponse, error) {
			sent = append(sent, sentIdentity(ctx)["authorization"])
			if len(sent) < 2 {
				return nil, connect.NewError(connect.CodeUnavailable, errors.New("away"))
			}
			return &v1.ExecuteResponse{}, nil
		},
	}
	source := func(context.Context) (string, error) {
		tokens++
		return fmt.Sprint("t", tokens), nil
	}
	client := serve(t, service, n8ngateway.WithTokenSource(source), n8ngateway.WithRetry(fast))
	_, err := client.Executions.Execute(t.Context(), &v1.ExecuteRequest{IdempotencyKey: "k"})
	if err != nil || fmt.Sprint(sent) != "[Bearer t1 Bearer t2]" {
		t.Errorf("sent %v, %v", sent, err)
	}
}
