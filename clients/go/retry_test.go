package n8ngateway_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"n8ngateway"
	v1 "n8ngateway/v1"
)

var (
	fast    = n8ngateway.RetryPolicy{Attempts: 4, InitialDelay: time.Millisecond, MaxDelay: 20 * time.Millisecond}
	pausing = n8ngateway.RetryPolicy{Attempts: 4, InitialDelay: time.Hour, MaxDelay: time.Hour}
)

func unavailable(retryAfter time.Duration) error {
	err := connect.NewError(connect.CodeUnavailable, errors.New("away"))
	if retryAfter > 0 {
		detail, _ := connect.NewErrorDetail(&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)})
		err.AddDetail(detail)
	}
	return err
}

// failing returns a service that fails some times and then answers, and the count of its calls.
func failing(failures int, err error) (*executions, *int) {
	count := 0
	return &executions{unary: func() error {
		count++
		if count <= failures {
			return err
		}
		return nil
	}}, &count
}

type call func(context.Context, *n8ngateway.Client) error

func get(ctx context.Context, client *n8ngateway.Client) error {
	_, err := client.Executions.GetExecution(ctx, &v1.GetExecutionRequest{})
	return err
}

func execute(ctx context.Context, client *n8ngateway.Client) error {
	_, err := client.Executions.Execute(ctx, &v1.ExecuteRequest{})
	return err
}

func TestSafeCallsAreRepeated(t *testing.T) {
	cases := map[string]call{
		"without side effects": get,
		"idempotent": func(ctx context.Context, client *n8ngateway.Client) error {
			_, err := client.Executions.CancelExecution(ctx, &v1.CancelExecutionRequest{})
			return err
		},
		"Execute with a key": func(ctx context.Context, client *n8ngateway.Client) error {
			_, err := client.Executions.Execute(ctx, &v1.ExecuteRequest{IdempotencyKey: "k"})
			return err
		},
		"Execute with a key in the header": func(ctx context.Context, client *n8ngateway.Client) error {
			ctx, info := connect.NewClientContext(ctx)
			info.RequestHeader().Set("Idempotency-Key", "k")
			return execute(ctx, client)
		},
		"StartExecution with a key": func(ctx context.Context, client *n8ngateway.Client) error {
			_, err := client.Executions.StartExecution(ctx, &v1.StartExecutionRequest{IdempotencyKey: "k"})
			return err
		},
	}
	for name, call := range cases {
		t.Run(name, func(t *testing.T) {
			service, count := failing(2, unavailable(0))
			if err := call(t.Context(), serve(t, service, n8ngateway.WithRetry(fast))); err != nil || *count != 3 {
				t.Errorf("%d calls, %v", *count, err)
			}
		})
	}
}

func TestWhatIsNotRepeated(t *testing.T) {
	cases := map[string]struct {
		call  call
		err   error
		calls int
	}{
		"Execute without a key":        {execute, unavailable(0), 1},
		"another code":                 {get, connect.NewError(connect.CodeInternal, errors.New("away")), 1},
		"more than the attempts":       {get, unavailable(0), 4},
		"a delay beyond the longest":   {get, unavailable(time.Hour), 1},
		"a delay that the policy lets": {get, unavailable(time.Millisecond), 4},
	}
	for name, each := range cases {
		t.Run(name, func(t *testing.T) {
			service, count := failing(9, each.err)
			err := each.call(t.Context(), serve(t, service, n8ngateway.WithRetry(fast)))
			if connect.CodeOf(err) != connect.CodeOf(each.err) || *count != each.calls {
				t.Errorf("%d calls, %v", *count, err)
			}
		})
	}
}

func TestTheGatewaysOwnDelayIsWaitedFor(t *testing.T) {
	service, count := failing(1, unavailable(15*time.Millisecond))
	if err := get(t.Context(), serve(t, service, n8ngateway.WithRetry(pausing))); err != nil || *count != 2 {
		t.Errorf("%d calls, %v", *count, err)
	}
}

func TestTheContextEndsAPause(t *testing.T) {
	service, _ := failing(1, unavailable(0))
	client := serve(t, service, n8ngateway.WithRetry(pausing))
	deadline, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := get(deadline, client); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Error(err)
	}
}
