package n8ngateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// RetryPolicy says how often and when a call that is safe to repeat is repeated.
type RetryPolicy struct {
	// Attempts counts the calls, the first included; 1 repeats nothing.
	Attempts int
	// InitialDelay is the pause before the second call; it doubles with each further one, and half of it is left to
	// chance.
	InitialDelay time.Duration
	// MaxDelay is the longest pause. A gateway that asks for a longer one is not called again.
	MaxDelay time.Duration
}

// DefaultRetryPolicy is the one of a Client that is given none.
var DefaultRetryPolicy = RetryPolicy{Attempts: 4, InitialDelay: 100 * time.Millisecond, MaxDelay: 10 * time.Second}

// WithRetry replaces DefaultRetryPolicy.
func WithRetry(policy RetryPolicy) Option {
	return func(s *settings) { s.retry = policy }
}

// retryInterceptor repeats unary calls which end as UNAVAILABLE, when that cannot do anything twice: methods without
// side effects, idempotent ones, and those that were given an idempotency key. It pauses as long as the gateway asks
// (RetryInfo). Streams are not repeated: see Follow.
func retryInterceptor(policy RetryPolicy) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
			for attempt := 1; ; attempt++ {
				response, err := next(ctx, request)
				if err == nil || attempt >= policy.Attempts || connect.CodeOf(err) != connect.CodeUnavailable || !isSafe(request) {
					return response, err
				}
				delay := ErrorInfoOf(err).RetryAfter
				if delay == 0 {
					delay = policy.backoff(attempt)
				}
				if delay > policy.MaxDelay {
					return response, err
				}
				if err := pause(ctx, delay); err != nil {
					return nil, err
				}
			}
		}
	}
}

// backoff returns the pause after attempt 1, 2, … has failed.
func (p RetryPolicy) backoff(attempt int) time.Duration {
	delay := p.InitialDelay
	for range attempt - 1 {
		delay = min(2*delay, p.MaxDelay)
	}
	return time.Duration(float64(delay) * (0.5 + rand.Float64()/2))
}

func isSafe(request connect.AnyRequest) bool {
	return request.Spec().IdempotencyLevel != connect.IdempotencyUnknown || hasIdempotencyKey(request)
}

// hasIdempotencyKey counts the header only where the method knows a key at all.
func hasIdempotencyKey(request connect.AnyRequest) bool {
	message, ok := request.Any().(proto.Message)
	if !ok {
		return false
	}
	reflected := message.ProtoReflect()
	field := reflected.Descriptor().Fields().ByName("idempotency_key")
	return field != nil && (reflected.Has(field) || request.Header().Get("Idempotency-Key") != "")
}

func pause(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return contextError(ctx)
	}
}

func contextError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return connect.NewError(connect.CodeDeadlineExceeded, ctx.Err())
	}
	return connect.NewError(connect.CodeCanceled, ctx.Err())
}
