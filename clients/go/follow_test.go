package n8ngateway_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"n8ngateway"
	v1 "n8ngateway/v1"
)

var errCut = connect.NewError(connect.CodeUnavailable, errors.New("cut"))

func chunk(sequence int32) *v1.ExecutionEvent {
	event := &v1.ExecutionEvent_Chunk{Chunk: &v1.ExecutionChunk{}}
	return &v1.ExecutionEvent{ExecutionId: "e", Sequence: sequence, Event: event}
}

func completed(sequence int32) *v1.ExecutionEvent {
	event := &v1.ExecutionEvent_Completed{Completed: &v1.ExecutionCompleted{}}
	return &v1.ExecutionEvent{ExecutionId: "e", Sequence: sequence, Event: event}
}

func failed(sequence int32) *v1.ExecutionEvent {
	event := &v1.ExecutionEvent_Failed{Failed: &v1.ExecutionFailed{}}
	return &v1.ExecutionEvent{ExecutionId: "e", Sequence: sequence, Event: event}
}

// stream sends events, then ends with an error or without one.
func stream(err error, events ...*v1.ExecutionEvent) func(context.Context, send) error {
	return func(_ context.Context, send send) error {
		if err := send(events...); err != nil {
			return err
		}
		return err
	}
}

type watch = func(context.Context, *v1.WatchExecutionRequest, send) error

// resuming is a stream that breaks after event 2, and what a watch then yields.
func resuming(watch watch) *executions {
	return &executions{stream: stream(errCut, chunk(1), chunk(2)), watch: watch}
}

// follow returns the sequences that arrived, the breaks, and the error at the end; it gives up after `attempts`.
func follow(t *testing.T, service *executions, attempts int) ([]int32, []n8ngateway.Break, error) {
	t.Helper()
	client := serve(t, service)
	var sequences []int32
	var breaks []n8ngateway.Break
	onBreak := func(ctx context.Context, where n8ngateway.Break) (*n8ngateway.Events, error) {
		breaks = append(breaks, where)
		if where.Attempt > attempts {
			return nil, nil
		}
		return client.Executions.WatchExecution(ctx, &v1.WatchExecutionRequest{
			ExecutionId: where.ExecutionID, AfterSequence: where.LastSequence,
		})
	}
	for event, err := range n8ngateway.Follow(t.Context(), client.Executions, &v1.ExecuteStreamRequest{}, onBreak) {
		if err != nil {
			return sequences, breaks, err
		}
		sequences = append(sequences, event.GetSequence())
	}
	return sequences, breaks, nil
}

func TestFollow(t *testing.T) {
	gone := connect.NewError(connect.CodeNotFound, errors.New("no such execution"))
	detail, err := connect.NewErrorDetail(&errdetails.ErrorInfo{Reason: "EXECUTION_NOT_FOUND"})
	if err != nil {
		t.Fatal(err)
	}
	gone.AddDetail(detail)
	aborted := connect.NewError(connect.CodeAborted, errors.New("a node failed"))
	rest := func(_ context.Context, request *v1.WatchExecutionRequest, send send) error {
		if request.GetExecutionId() != "e" || request.GetAfterSequence() != 2 {
			return connect.NewError(connect.CodeInvalidArgument, errors.New("not where it broke"))
		}
		return send(chunk(2), chunk(3), completed(4))
	}
	refused := func(context.Context, *v1.WatchExecutionRequest, send) error { return gone }
	cases := map[string]struct {
		service   *executions
		sequences []int32
		attempts  []int
		code      connect.Code
	}{
		"a whole stream":                      {&executions{stream: stream(nil, chunk(1), completed(2))}, []int32{1, 2}, nil, 0},
		"a break is resumed, each event once": {resuming(rest), []int32{1, 2, 3, 4}, []int{1}, 0},
		"an early end is a break": {
			&executions{stream: stream(nil, chunk(1), chunk(2)), watch: rest}, []int32{1, 2, 3, 4}, []int{1}, 0,
		},
		"a refused resumption is no break": {resuming(refused), []int32{1, 2}, []int{1}, connect.CodeNotFound},
		"an error before the first event":  {&executions{stream: stream(aborted)}, nil, nil, connect.CodeAborted},
		"the error of a failed run": {
			&executions{stream: stream(aborted, chunk(1), failed(2))}, []int32{1, 2}, nil, connect.CodeAborted,
		},
	}
	for name, each := range cases {
		t.Run(name, func(t *testing.T) {
			sequences, breaks, err := follow(t, each.service, 3)
			var attempts []int
			for _, where := range breaks {
				attempts = append(attempts, where.Attempt)
			}
			var code connect.Code
			if err != nil {
				code = connect.CodeOf(err)
			}
			if !slices.Equal(sequences, each.sequences) || !slices.Equal(attempts, each.attempts) || code != each.code {
				t.Errorf("events %v, attempts %v, %v", sequences, attempts, err)
			}
		})
	}
}

func TestAttemptsCountBreaksWithoutANewEvent(t *testing.T) {
	watches := 0
	service := resuming(func(_ context.Context, _ *v1.WatchExecutionRequest, send send) error {
		watches++
		if watches == 2 {
			if err := send(chunk(3)); err != nil {
				return err
			}
		}
		return errCut
	})
	sequences, breaks, err := follow(t, service, 1)
	var attempts []int
	for _, where := range breaks {
		attempts = append(attempts, where.Attempt)
	}
	if len(sequences) != 2 || !slices.Equal(attempts, []int{1, 2}) || connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("events %v, attempts %v, %v", sequences, attempts, err)
	}
	watches = 1
	if sequences, breaks, _ = follow(t, service, 1); len(sequences) != 3 || breaks[1].Attempt != 1 || breaks[2].Attempt != 2 {
		t.Errorf("events %v, breaks %v", sequences, breaks)
	}
}

func TestWithoutAHookTheBreakIsTheError(t *testing.T) {
	client := serve(t, resuming(nil))
	var last error
	for _, err := range n8ngateway.Follow(t.Context(), client.Executions, &v1.ExecuteStreamRequest{}, nil) {
		last = err
	}
	if connect.CodeOf(last) != connect.CodeUnavailable {
		t.Error(last)
	}
}

func TestAnErrorOfTheHooksOwnEndsIt(t *testing.T) {
	client := serve(t, resuming(nil))
	own := errors.New("not again")
	hook := func(context.Context, n8ngateway.Break) (*n8ngateway.Events, error) { return nil, own }
	var last error
	for _, err := range n8ngateway.Follow(t.Context(), client.Executions, &v1.ExecuteStreamRequest{}, hook) {
		last = err
	}
	if !errors.Is(last, own) {
		t.Error(last)
	}
}

func TestLeavingTheLoopEndsTheCall(t *testing.T) {
	ended := make(chan struct{})
	service := &executions{stream: func(ctx context.Context, send send) error {
		defer close(ended)
		if err := send(chunk(1)); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}}
	client := serve(t, service)
	for _, err := range n8ngateway.Follow(t.Context(), client.Executions, &v1.ExecuteStreamRequest{}, nil) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	<-ended
}
