package n8ngateway_test

import (
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"n8ngateway"
)

func TestErrorInfoReadsAllDetails(t *testing.T) {
	failed := connect.NewError(connect.CodeFailedPrecondition, errors.New("no credits are left"))
	violation := &errdetails.BadRequest_FieldViolation{Field: "credits", Description: "is too low"}
	for _, message := range []proto.Message{
		&errdetails.ErrorInfo{Reason: "INSUFFICIENT_CREDITS", Domain: "n8n-gateway", Metadata: map[string]string{"price": "3"}},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{violation}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
		&errdetails.RequestInfo{RequestId: "request-1"},
	} {
		detail, err := connect.NewErrorDetail(message)
		if err != nil {
			t.Fatal(err)
		}
		failed.AddDetail(detail)
	}
	for name, options := range map[string][]n8ngateway.Option{"connect": nil, "grpc": {n8ngateway.WithGRPC()}} {
		service, _ := failing(1, failed)
		info := n8ngateway.ErrorInfoOf(execute(t.Context(), serve(t, service, options...)))
		want := "failed_precondition (INSUFFICIENT_CREDITS): no credits are left\n  credits: is too low"
		if info.String() != want || info.Domain != "n8n-gateway" || info.Metadata["price"] != "3" ||
			info.RetryAfter != 1500*time.Millisecond || info.RequestID != "request-1" {
			t.Errorf("%s: %+v", name, info)
		}
	}
}

func TestErrorInfoOfARefusedConnection(t *testing.T) {
	info := n8ngateway.ErrorInfoOf(execute(t.Context(), n8ngateway.New("http://127.0.0.1:1")))
	if info.Code != connect.CodeUnavailable || info.Reason != "" {
		t.Errorf("%+v", info)
	}
}

func TestErrorInfoOfWhatIsNoErrorOfACall(t *testing.T) {
	if info := n8ngateway.ErrorInfoOf(errors.New("oops")); info.Code != connect.CodeUnknown || info.Message != "oops" {
		t.Errorf("%+v", info)
	}
}
