package n8ngateway

import (
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// FieldViolation is a field of the request that was refused, by its path, and why.
type FieldViolation struct {
	Field       string
	Description string
}

// ErrorInfo is a failed call: its status, and what the gateway tells machines about it (google.rpc.Status, AIP-193).
type ErrorInfo struct {
	Code    connect.Code
	Message string
	// Reason refines Code and is stable, e.g. INSUFFICIENT_CREDITS; empty when the error is not the gateway's.
	Reason          string
	Domain          string
	Metadata        map[string]string
	FieldViolations []FieldViolation
	// RetryAfter is the time after which a retry may help; 0 when the gateway does not say.
	RetryAfter time.Duration
	// RequestID finds the call in the gateway's log.
	RequestID string
}

// ErrorInfoOf returns what an error that a call has returned says. Details that are missing or cannot be read leave
// their fields empty; Code and Message are always there.
func ErrorInfoOf(err error) ErrorInfo {
	info := ErrorInfo{Code: connect.CodeOf(err), Message: err.Error()}
	var failed *connect.Error
	if !errors.As(err, &failed) {
		return info
	}
	info.Message = failed.Message()
	for _, detail := range failed.Details() {
		value, err := detail.Value()
		if err != nil {
			continue
		}
		switch value := value.(type) {
		case *errdetails.ErrorInfo:
			info.Reason, info.Domain, info.Metadata = value.GetReason(), value.GetDomain(), value.GetMetadata()
		case *errdetails.BadRequest:
			for _, each := range value.GetFieldViolations() {
				info.FieldViolations = append(info.FieldViolations, FieldViolation{each.GetField(), each.GetDescription()})
			}
		case *errdetails.RetryInfo:
			info.RetryAfter = value.GetRetryDelay().AsDuration()
		case *errdetails.RequestInfo:
			info.RequestID = value.GetRequestId()
		}
	}
	return info
}

// String tells it in one line, and one more for each field.
func (i ErrorInfo) String() string {
	text := i.Code.String()
	if i.Reason != "" {
		text += " (" + i.Reason + ")"
	}
	text += ": " + i.Message
	for _, each := range i.FieldViolations {
		text += fmt.Sprintf("\n  %s: %s", each.Field, each.Description)
	}
	return text
}
