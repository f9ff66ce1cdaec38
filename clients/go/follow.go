package n8ngateway

import (
	"context"
	"errors"
	"iter"

	"connectrpc.com/connect"

	v1 "n8ngateway/v1"
	"n8ngateway/v1/n8ngatewayv1connect"
)

// Events is a stream of a run's events, as ExecuteStream and WatchExecution return it.
type Events = connect.ServerStreamForClient[v1.ExecutionEvent]

// Break is where a stream of events broke; the run itself goes on.
type Break struct {
	ExecutionID string
	// LastSequence is of the last event that arrived: what WatchExecution resumes after.
	LastSequence int32
	// Attempt is 1 for the first break since an event arrived, 2 when the resumed stream broke without a new one, …
	Attempt int
	Err     error
}

// OnBreak returns the events to go on with, or nil to give up with Break.Err. An error that a call has returned counts
// as that of a stream, any other one ends it.
type OnBreak func(context.Context, Break) (*Events, error)

var errEndedEarly = connect.NewError(connect.CodeUnavailable, errors.New("the stream ended before the run did"))

// Follow runs a workflow with ExecuteStream and yields its events to the last one, each once.
//
// A stream that breaks before that is handed to onBreak, and what it returns is read on from there; events that it
// repeats are left out. When that breaks too before a new event, there is a pause before onBreak is called again, longer
// each time. What the gateway itself refuses is no break, and is yielded as it is; so are an error before the first
// event, the one that a failed run ends with, that of ctx, and any break when onBreak is nil. Leaving the loop ends the
// call, but not the run.
func Follow(
	ctx context.Context,
	executions n8ngatewayv1connect.ExecutionServiceClient,
	request *v1.ExecuteStreamRequest,
	onBreak OnBreak,
) iter.Seq2[*v1.ExecutionEvent, error] {
	return func(yield func(*v1.ExecutionEvent, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f := follower{yield: yield, onBreak: onBreak}
		stream, err := executions.ExecuteStream(ctx, request)
		for {
			if err == nil {
				err = f.read(stream)
			}
			if err == nil {
				return
			}
			if stream, err = f.resume(ctx, err); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

type follower struct {
	yield   func(*v1.ExecutionEvent, error) bool
	onBreak OnBreak
	last    *v1.ExecutionEvent
	attempt int
}

// read yields what is new in a stream and returns nil when its reader has left or the run is over.
func (f *follower) read(stream *Events) error {
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		event := stream.Msg()
		if event.GetSequence() <= f.last.GetSequence() {
			continue
		}
		f.last, f.attempt = event, 0
		if !f.yield(event, nil) {
			return nil
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if f.isOver() {
		return nil
	}
	return errEndedEarly
}

// resume returns the stream to go on with, or the error to give up with.
func (f *follower) resume(ctx context.Context, err error) (*Events, error) {
	for f.onBreak != nil && f.canResume(ctx, err) {
		if f.attempt > 0 {
			if err := pause(ctx, DefaultRetryPolicy.backoff(f.attempt)); err != nil {
				return nil, err
			}
		}
		f.attempt++
		where := Break{f.last.GetExecutionId(), f.last.GetSequence(), f.attempt, err}
		stream, failed := f.onBreak(ctx, where)
		if failed == nil {
			if stream == nil {
				return nil, err
			}
			return stream, nil
		}
		err = failed
	}
	return nil, err
}

func (f *follower) isOver() bool {
	return f.last.GetCompleted() != nil || f.last.GetFailed() != nil
}

// canResume tells breaks from answers: the gateway's own errors have a reason, and of these only its being away is
// worth another attempt.
func (f *follower) canResume(ctx context.Context, err error) bool {
	var failed *connect.Error
	if f.last == nil || f.isOver() || ctx.Err() != nil || !errors.As(err, &failed) {
		return false
	}
	info := ErrorInfoOf(failed)
	return info.Code == connect.CodeUnavailable || info.Reason == "" && info.Code != connect.CodeDeadlineExceeded
}
